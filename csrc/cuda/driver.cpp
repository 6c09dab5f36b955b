#include "../cuda_driver.h"

#include <dlfcn.h>

#include <array>
#include <stdexcept>

namespace fastbert::cuda_driver {
namespace {

constexpr size_t kMostParameters = 16;

// The part of the driver's stable binary interface that is used here; its handles are pointers, its CUresult an int.
struct Driver {
  int (*current_context)(void**);
  int (*launch)(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared_bytes,
                void* stream, void** parameters, void** extra);
  int (*error_name)(int, const char**);
};

template <class Function>
bool find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

// nullptr until the process has loaded a driver.
const Driver* driver() {
  static const Driver* loaded = nullptr;
  if (loaded != nullptr) return loaded;
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  static Driver found;
  if (library != nullptr && find(library, "cuCtxGetCurrent", found.current_context) &&
      find(library, "cuLaunchKernel", found.launch) && find(library, "cuGetErrorName", found.error_name))
    loaded = &found;
  return loaded;
}

}  // namespace

void* current_context() {
  void* context = nullptr;
  if (driver() == nullptr || driver()->current_context(&context) != 0) return nullptr;
  return context;
}

int launch(const Kernel& kernel, uint32_t blocks, void* stream, const Parameter* parameters, size_t count) {
  if (driver() == nullptr) throw std::logic_error("a kernel is launched without a driver");
  if (count > kMostParameters) throw std::logic_error("a kernel with too many parameters is launched");
  std::array<void*, kMostParameters> addresses;
  for (size_t i = 0; i < count; ++i) addresses[i] = const_cast<uint64_t*>(&parameters[i].bits);
  return driver()->launch(kernel.function, blocks, 1, 1, kernel.threads, 1, 1, kernel.shared_bytes, stream,
                          addresses.data(), nullptr);
}

std::string error_in_words(int status) {
  const char* name = nullptr;
  if (driver() == nullptr || driver()->error_name(status, &name) != 0 || name == nullptr) return "unknown";
  return name;
}

}  // namespace fastbert::cuda_driver
