// A torch.Tensor as argument of a native function. C++ reads its dtype, shape, strides and device itself, and a pointer
// leaves this class only after a check of all four, so that arguments in the wrong order or of the wrong size are
// errors in Python and no access to other memory. Reading a tensor takes about 70 ns (docs/architecture.md).
#pragma once
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "binding/dlpack.h"
#include "dtype.h"

namespace fastbert::binding {

namespace py = pybind11;

using Device = dlpack::Device;
inline constexpr Device kCpu{dlpack::kCpu, 0};

inline bool operator==(Device a, Device b) { return a.type == b.type && a.index == b.index; }

struct ElementType {
  const char* name;  // in Python
  dlpack::DataType dtype;
};

template <class T>
inline constexpr ElementType kElement = {};  // the elements of a kernel's pointer
template <>
inline constexpr ElementType kElement<float>{"torch.float32", {dlpack::kFloat, 32, 1}};
template <>
inline constexpr ElementType kElement<int64_t>{"torch.int64", {dlpack::kInt, 64, 1}};
template <>
inline constexpr ElementType kElement<int32_t>{"torch.int32", {dlpack::kInt, 32, 1}};
template <>
inline constexpr ElementType kElement<uint8_t>{"torch.uint8", {dlpack::kUnsigned, 8, 1}};
template <>
inline constexpr ElementType kElement<bool>{"torch.bool", {dlpack::kBool, 8, 1}};

using Shape = std::initializer_list<int64_t>;

// What tensors of one argument have in common from call to call.
struct TensorKind {
  dlpack::DataType dtype;
  Device device;
  int32_t dimensions;  // 1 or 2
  int64_t columns;     // the last size
};

struct TensorOfKind {
  void* memory;  // nullptr where the tensor is of another kind, is not contiguous, or has no memory
  int64_t rows;  // the first size
};

class Tensor {
 public:
  Tensor() = default;
  // Valid as long as the Python object is alive and nobody changes its shape. What is no tensor, or has no memory, shows
  // at the first check, which knows the argument's name.
  explicit Tensor(py::handle object);

  // Each of these throws TypeError or ValueError with `name`, what is needed and what came.

  // Its sizes, for as many dimensions as asked for.
  template <size_t Dimensions>
  std::array<int64_t, Dimensions> sizes(const char* name) const {
    check_dimensions(name, Dimensions);
    std::array<int64_t, Dimensions> sizes;
    for (size_t i = 0; i < Dimensions; ++i) sizes[i] = view_.shape[i];
    return sizes;
  }

  // Its elements, contiguous.
  template <class T>
  T* checked(const char* name, Shape shape, Device device) const {
    return elements<T>(name, checked(name, shape, device));
  }
  // The same for rows of any dtype that dtype() has checked, or of which bytes are moved only.
  void* checked(const char* name, Shape shape, Device device) const;

  // The same for memory that may be for more than shape[0] rows.
  template <class T>
  T* room(const char* name, Shape shape, Device device) const {
    return elements<T>(name, room(name, shape, device));
  }
  void* room(const char* name, Shape shape, Device device) const;

  // Its dtype, one of `allowed`.
  DType dtype(const char* name, std::initializer_list<DType> allowed) const;

  void check_same_dtype(const char* name, const Tensor& other) const;
  Device device(const char* name) const;

  // Its kind, if it has one or two dimensions and is contiguous.
  TensorKind kind(const char* name) const;
  // For a caller that has another way for tensors of another kind: throws nothing.
  TensorOfKind of_kind(const TensorKind& kind) const;
  int64_t element_bytes() const { return view_.dtype.bits * view_.dtype.lanes / 8; }

 private:
  bool has_type(dlpack::DataType dtype) const {
    return view_.dtype.code == dtype.code && view_.dtype.bits == dtype.bits && view_.dtype.lanes == dtype.lanes;
  }
  void* memory() const { return static_cast<char*>(view_.data) + view_.byte_offset; }
  template <class T>
  T* elements(const char* name, void* memory) const {
    constexpr ElementType element = kElement<std::remove_const_t<T>>;
    static_assert(element.name != nullptr, "an element type that kernels do not take");
    if (!has_type(element.dtype)) refuse_type(name, element.name);
    return static_cast<T*>(memory);
  }
  void check_readable(const char* name) const;
  void check_dimensions(const char* name, size_t dimensions) const;
  void check_place(const char* name, Device device) const;
  [[noreturn]] void refuse_type(const char* name, const char* wanted) const;

  py::handle object_;
  bool readable_ = false;
  dlpack::Tensor view_ = {};
};

// ValueError for a device that the kernels of this build do not run on.
void check_on_cpu(const char* name, Device device);

// torch's current stream on a CUDA device (a cudaStream_t).
void* current_stream(Device device);

// cu_seqlens [B + 1] on the CPU: begins with 0, does not decrease, and ends within the T rows of `hidden`.
void check_cu_seqlens(const int32_t* cu_seqlens, int64_t batch, int64_t tokens);

// ValueError for memory that does not begin at a multiple of `bytes`.
void check_aligned(const char* name, const void* memory, uintptr_t bytes);

// All of values [count] in 0..rows - 1, or IndexError.
template <class Integer>
void check_indices(const char* name, const Integer* values, int64_t count, int64_t rows);

}  // namespace fastbert::binding

namespace pybind11::detail {

template <>
struct type_caster<fastbert::binding::Tensor> {
  PYBIND11_TYPE_CASTER(fastbert::binding::Tensor, const_name("torch.Tensor"));

  bool load(handle source, bool) {
    value = fastbert::binding::Tensor(source);
    return true;
  }
};

}  // namespace pybind11::detail
