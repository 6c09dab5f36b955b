// Exit heads as their CUDA kernels take them.
#pragma once
#include "binding/heads.h"

namespace fastbert::binding {

// Its tensors are checked once and kept, and read where they lie: what is written to them later counts.
class CudaHead {
 public:
  virtual ~CudaHead() = default;
  virtual int64_t num_labels() const = 0;

  // Throws TypeError, ValueError or backends.Unsupported for rows that it does not take. One launch on torch's stream.
  virtual void launch(const Rows& rows, const Decision& decision, const DecisionOutputs& outputs) const = 0;

 protected:
  CudaHead(Device device, int64_t hidden_size, DType dtype)
      : device_(device), hidden_size_(hidden_size), dtype_(dtype) {}
  void check(const Rows& rows) const;

  Device device_;
  int64_t hidden_size_;
  DType dtype_;
};

// The device of a tensor, if it is a GPU.
Device cuda_device(const char* name, const Tensor& tensor);

}  // namespace fastbert::binding
