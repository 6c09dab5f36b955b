// What surrounds a native call that shares work out among threads.
#pragma once
#include <pybind11/pybind11.h>

#include "cpu/threads.h"

namespace fastbert::binding {

// Held by a binding while its kernel runs: the interpreter's lock is released, the threads are counted anew, and a signal
// that Python has a handler for (Ctrl-C) is noticed.
class NativeCall {
 public:
  NativeCall() : call_(limits()) {}

  // `function` returns (threads for a call, processors for all calls), for every call anew.
  static void count_threads_with(pybind11::function function) { counter() = function.release().ptr(); }

 private:
  static PyObject*& counter() {
    static PyObject* function = nullptr;
    return function;
  }

  static cpu::CallLimits limits() {
    if (counter() == nullptr) return {};
    const auto [threads, processors] =
        pybind11::reinterpret_borrow<pybind11::function>(counter())().cast<std::pair<int, int>>();
    return {threads, processors, on_main_thread() ? &signal_raised : nullptr};
  }

  // Python runs handlers of signals nowhere else.
  static bool on_main_thread() {
    const pybind11::module_ threading = pybind11::module_::import("threading");
    return threading.attr("main_thread")().attr("ident").cast<unsigned long>() == PyThread_get_thread_ident();
  }

  static bool signal_raised() {
    const PyGILState_STATE state = PyGILState_Ensure();
    const bool raised = PyErr_CheckSignals() != 0;  // the handler has run, and its exception is set
    PyGILState_Release(state);
    return raised;
  }

  cpu::Call call_;
  pybind11::gil_scoped_release release_;
};

// For the exception translator of the module: what the handler of the signal raised is what the caller gets.
inline void translate_interrupted(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const cpu::Interrupted&) {
    if (PyErr_Occurred() == nullptr)
      PyErr_SetString(PyExc_RuntimeError,
                      "fastbert_kernels: the process was forked by a signal handler in the middle of this call; in the "
                      "child it cannot go on: call the model again");
  }
}

}  // namespace fastbert::binding
