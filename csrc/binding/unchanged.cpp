// Whether the Python objects that a patched model was read from are still what they were: hosts/guard.py and
// hosts/derived.py ask in front of every call. These are some thousand objects, in memory that the call before has driven
// out of the caches; a loop here does not wait for one look before the next, so that the processor has many under way.
// True is a promise; where it is False, Python looks itself.
#include <pybind11/pybind11.h>

#include "binding/functions.h"

namespace fastbert::binding {
namespace {

void check_sizes(const py::list& first, std::initializer_list<const py::list*> others) {
  for (const py::list* other : others)
    if (other->size() != first.size()) throw py::value_error("the lists must be of one length");
}

// As `==` of lists has it: the same object, or an equal one. `found` may be null.
bool equal(PyObject* found, PyObject* wanted) {
  if (found == wanted) return true;
  if (found == nullptr) return false;
  const auto kept = py::reinterpret_borrow<py::object>(found);  // a comparison may run code that drops it
  const int answer = PyObject_RichCompareBool(found, wanted, Py_EQ);
  if (answer < 0) throw py::error_already_set();
  return answer == 1;
}

// What a dictionary has under a name, borrowed; null where it has nothing.
PyObject* entry(PyObject* holder, PyObject* name) {
  if (!PyDict_Check(holder)) throw py::type_error("a holder must be a dict");
  PyObject* found = PyDict_GetItemWithError(holder, name);
  if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return found;
}

Py_ssize_t size_of(PyObject* number) {
  const Py_ssize_t size = PyLong_AsSsize_t(number);
  if (size == -1 && PyErr_Occurred()) throw py::error_already_set();
  return size;
}

bool is_empty(PyObject* hooks) { return hooks != nullptr && PyDict_Check(hooks) && PyDict_Size(hooks) == 0; }

// Whether every holder, a dict, has the value under the name.
bool entries_hold(const py::list& holders, const py::list& names, const py::list& values) {
  check_sizes(holders, {&names, &values});
  for (size_t i = 0; i < holders.size(); ++i)
    if (!equal(entry(PyList_GET_ITEM(holders.ptr(), i), PyList_GET_ITEM(names.ptr(), i)),
               PyList_GET_ITEM(values.ptr(), i)))
      return false;
  return true;
}

// Whether every module is of its class and has as many attributes as before, and no hook. `attributes` are the modules'
// dicts, and `hooks` the names of dicts in these.
bool modules_hold(const py::list& modules, const py::list& attributes, const py::list& classes, const py::list& numbers,
                  const py::tuple& hooks) {
  check_sizes(modules, {&attributes, &classes, &numbers});
  for (size_t i = 0; i < modules.size(); ++i) {
    PyObject* own = PyList_GET_ITEM(attributes.ptr(), i);
    for (const py::handle name : hooks)
      if (!is_empty(entry(own, name.ptr()))) return false;
    if (PyDict_Size(own) != size_of(PyList_GET_ITEM(numbers.ptr(), i))) return false;
    PyObject* kind = PyList_GET_ITEM(classes.ptr(), i);
    if (reinterpret_cast<PyObject*>(Py_TYPE(PyList_GET_ITEM(modules.ptr(), i))) != kind) return false;
  }
  return true;
}

// Whether every module has the very tensor among its parameters, of the kind, at the address and of the version that it
// had. `attributes` are the modules' dicts. `address` and `version` are called with a tensor: Tensor.data_ptr and the
// getter of Tensor._version.
bool tensors_hold(const py::list& attributes, const py::list& names, const py::list& tensors, const py::list& kinds,
                  const py::list& addresses, const py::list& versions, const py::handle address,
                  const py::handle version) {
  check_sizes(attributes, {&names, &tensors, &kinds, &addresses, &versions});
  const py::str parameters("_parameters");
  for (size_t i = 0; i < attributes.size(); ++i) {
    PyObject* tensor = PyList_GET_ITEM(tensors.ptr(), i);
    PyObject* holder = entry(PyList_GET_ITEM(attributes.ptr(), i), parameters.ptr());
    if (holder == nullptr || entry(holder, PyList_GET_ITEM(names.ptr(), i)) != tensor) return false;
    if (reinterpret_cast<PyObject*>(Py_TYPE(tensor)) != PyList_GET_ITEM(kinds.ptr(), i)) return false;
    const auto same = [&](const py::handle function, const py::list& before) {
      const auto now = py::reinterpret_steal<py::object>(PyObject_CallOneArg(function.ptr(), tensor));
      if (!now) throw py::error_already_set();
      return equal(now.ptr(), PyList_GET_ITEM(before.ptr(), i));
    };
    if (!same(address, addresses) || !same(version, versions)) return false;
  }
  return true;
}

}  // namespace

void bind_unchanged(py::module_& module) {
  module.def("entries_hold", &entries_hold);
  module.def("modules_hold", &modules_hold);
  module.def("tensors_hold", &tensors_hold);
}

}  // namespace fastbert::binding
