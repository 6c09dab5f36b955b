// The part of DLPack's stable binary interface, version 1, by which torch.Tensor shows its memory without a copy and
// without a call into Python: https://dmlc.github.io/dlpack/latest/c_api.html. torch has it since 2.10.
#pragma once
#include <cstdint>

namespace fastbert::binding::dlpack {

struct Version {
  uint32_t major;  // of another major version only the header of the exchange table may be read
  uint32_t minor;
};

enum DeviceType : int32_t { kCpu = 1, kCuda = 2 };

struct Device {
  int32_t type;  // DeviceType, or one that no kernel runs on
  int32_t index;
};

enum TypeCode : uint8_t { kInt = 0, kUnsigned = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct DataType {
  uint8_t code;  // TypeCode, or one that no kernel takes
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t dimensions;
  DataType dtype;
  const int64_t* shape;
  const int64_t* strides;  // in elements
  uint64_t byte_offset;
};

// What the type of a tensor carries as `__dlpack_c_exchange_api__`, a capsule of the name below.
struct ExchangeTable {
  Version version;
  ExchangeTable* previous;  // of an older major version, or nullptr
  void* allocate;
  void* own;
  void* wrap;
  // Fills `out` from a PyObject*, whose memory and shape stay its own; 0, or -1 with a Python exception set.
  int (*view)(void* tensor, Tensor* out);
  // The stream that the tensors' library works on at present; 0, or -1 with a Python exception set.
  int (*current_stream)(int32_t device_type, int32_t device_index, void** out);
};

inline constexpr const char* kExchangeAttribute = "__dlpack_c_exchange_api__";
inline constexpr const char* kExchangeCapsule = "dlpack_exchange_api";

}  // namespace fastbert::binding::dlpack
