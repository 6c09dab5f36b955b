#include "binding/tensor.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "binding/names.h"

namespace fastbert::binding {
namespace {

const dlpack::ExchangeTable& exchange_table() {
  static const dlpack::ExchangeTable* const found = [] {
    const py::object type = py::module_::import("torch").attr("Tensor");
    const py::object capsule = py::getattr(type, dlpack::kExchangeAttribute, py::none());
    const auto* table = static_cast<const dlpack::ExchangeTable*>(
        capsule.is_none() ? nullptr : PyCapsule_GetPointer(capsule.ptr(), dlpack::kExchangeCapsule));
    if (PyErr_Occurred()) throw py::error_already_set();
    while (table != nullptr && table->version.major != 1) table = table->previous;
    if (table == nullptr || table->view == nullptr)
      throw std::runtime_error("this torch has no DLPack exchange table of version 1; torch 2.10 or later has it");
    return table;
  }();
  return *found;
}

std::string in_brackets(const int64_t* sizes, size_t count) {
  std::string text = "[";
  for (size_t i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + "]";
}

std::string in_words(Device device) {
  if (device.type == dlpack::kCpu) return "cpu";
  if (device.type == dlpack::kCuda) return "cuda:" + std::to_string(device.index);
  return "a device without kernels";
}

std::string attribute(py::handle object, const char* name) { return py::str(object.attr(name)); }

bool is_contiguous(const dlpack::Tensor& view) {
  int64_t expected = 1;
  bool contiguous = true, empty = false;
  for (int32_t i = view.dimensions; i-- > 0;) {
    if (view.shape[i] != 1 && view.strides[i] != expected) contiguous = false;
    if (view.shape[i] == 0) empty = true;
    expected *= view.shape[i];
  }
  return contiguous || empty;
}

}  // namespace

Tensor::Tensor(py::handle object) : object_(object) {
  readable_ = exchange_table().view(object.ptr(), &view_) == 0;
  if (!readable_) PyErr_Clear();
}

void Tensor::check_readable(const char* name) const {
  if (readable_) return;
  if (!py::isinstance(object_, py::module_::import("torch").attr("Tensor")))
    throw py::type_error(std::string(name) + " must be a torch.Tensor, not " +
                         attribute(py::type::of(object_), "__name__"));
  throw py::value_error(std::string(name) + " has no memory that can be read: it is a " + attribute(object_, "layout") +
                        " tensor of " + attribute(object_, "dtype") + " on " + attribute(object_, "device"));
}

void Tensor::check_dimensions(const char* name, size_t dimensions) const {
  check_readable(name);
  if (static_cast<size_t>(view_.dimensions) != dimensions)
    throw py::value_error(std::string(name) + " must have " + std::to_string(dimensions) + " dimensions, not shape " +
                          in_brackets(view_.shape, view_.dimensions));
}

void* Tensor::checked(const char* name, Shape shape, Device device) const {
  check_readable(name);
  if (static_cast<size_t>(view_.dimensions) != shape.size() || !std::equal(shape.begin(), shape.end(), view_.shape))
    throw py::value_error(std::string(name) + " must have shape " + in_brackets(shape.begin(), shape.size()) +
                          ", not " + in_brackets(view_.shape, view_.dimensions));
  check_place(name, device);
  return memory();
}

void* Tensor::room(const char* name, Shape shape, Device device) const {
  check_dimensions(name, shape.size());
  if (view_.shape[0] < *shape.begin() || !std::equal(shape.begin() + 1, shape.end(), view_.shape + 1))
    throw py::value_error(std::string(name) + " must have room for shape " + in_brackets(shape.begin(), shape.size()) +
                          ", not " + in_brackets(view_.shape, view_.dimensions));
  check_place(name, device);
  return memory();
}

void Tensor::check_place(const char* name, Device device) const {
  if (!(view_.device == device))
    throw py::value_error(std::string(name) + " is on " + in_words(view_.device) + ", not on " + in_words(device) +
                          "; move it there first");
  if (!is_contiguous(view_))
    throw py::value_error(std::string(name) + " must be contiguous; it has strides " +
                          in_brackets(view_.strides, view_.dimensions) + " for shape " +
                          in_brackets(view_.shape, view_.dimensions));
}

void Tensor::refuse_type(const char* name, const char* wanted) const {
  throw py::type_error(std::string(name) + " must be " + wanted + ", not " + attribute(object_, "dtype"));
}

DType Tensor::dtype(const char* name, std::initializer_list<DType> allowed) const {
  check_readable(name);
  std::string names;
  for (const DType dtype : allowed) {
    const dlpack::DataType same = dtype == DType::float32    ? dlpack::DataType{dlpack::kFloat, 32, 1}
                                  : dtype == DType::float16  ? dlpack::DataType{dlpack::kFloat, 16, 1}
                                  : dtype == DType::bfloat16 ? dlpack::DataType{dlpack::kBfloat, 16, 1}
                                                             : dlpack::DataType{dlpack::kInt, 8, 1};
    if (has_type(same)) return dtype;
    names += (names.empty() ? "torch." : " or torch.") + std::string(name_of(dtype));
  }
  refuse_type(name, names.c_str());
}

void Tensor::check_same_dtype(const char* name, const Tensor& other) const {
  check_readable(name);
  if (!other.readable_) return;  // its own check says so, by its name
  if (!has_type(other.view_.dtype)) refuse_type(name, attribute(other.object_, "dtype").c_str());
}

Device Tensor::device(const char* name) const {
  check_readable(name);
  return view_.device;
}

TensorKind Tensor::kind(const char* name) const {
  const Device device = this->device(name);
  if (view_.dimensions != 1 && view_.dimensions != 2)
    throw py::value_error(std::string(name) + " must have one or two dimensions, not shape " +
                          in_brackets(view_.shape, view_.dimensions));
  check_place(name, device);
  return {view_.dtype, device, view_.dimensions, view_.shape[view_.dimensions - 1]};
}

TensorOfKind Tensor::of_kind(const TensorKind& kind) const {
  const bool same = readable_ && has_type(kind.dtype) && view_.device == kind.device &&
                    view_.dimensions == kind.dimensions && view_.shape[view_.dimensions - 1] == kind.columns &&
                    is_contiguous(view_);
  return same ? TensorOfKind{memory(), view_.shape[0]} : TensorOfKind{nullptr, 0};
}

void check_on_cpu(const char* name, Device device) {
  if (!(device == kCpu))
    throw py::value_error(std::string(name) + " is on " + in_words(device) + ", for which this module has no kernels");
}

void* current_stream(Device device) {
  void* stream = nullptr;
  if (exchange_table().current_stream(device.type, device.index, &stream) != 0) throw py::error_already_set();
  return stream;
}

void check_aligned(const char* name, const void* memory, uintptr_t bytes) {
  if (reinterpret_cast<uintptr_t>(memory) % bytes != 0)
    throw py::value_error(std::string(name) + " must begin at an address that " + std::to_string(bytes) + " divides");
}

void check_cu_seqlens(const int32_t* cu_seqlens, int64_t batch, int64_t tokens) {
  int32_t before = 0;
  for (int64_t i = 0; i <= batch; ++i) {
    if (cu_seqlens[i] < before || cu_seqlens[i] > tokens || (i == 0 && cu_seqlens[0] != 0))
      throw py::value_error("cu_seqlens must begin with 0, not decrease and end within the " + std::to_string(tokens) +
                            " rows of hidden, but entry " + std::to_string(i) + " is " + std::to_string(cu_seqlens[i]));
    before = cu_seqlens[i];
  }
}

template <class Integer>
void check_indices(const char* name, const Integer* values, int64_t count, int64_t rows) {
  bool outside = false;
  for (int64_t i = 0; i < count; ++i) outside |= static_cast<uint64_t>(values[i]) >= static_cast<uint64_t>(rows);
  if (!outside) return;
  const auto [lowest, highest] = std::minmax_element(values, values + count);
  throw py::index_error(std::string(name) + " must lie in 0.." + std::to_string(rows - 1) + ", but they go from " +
                        std::to_string(*lowest) + " to " + std::to_string(*highest));
}
template void check_indices(const char*, const int32_t*, int64_t, int64_t);
template void check_indices(const char*, const int64_t*, int64_t, int64_t);

}  // namespace fastbert::binding
