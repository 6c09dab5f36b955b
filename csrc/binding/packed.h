// Weights that outlive a call. Each native struct of pointers stands beside the Python objects that own the memory.
#pragma once
#include <pybind11/pybind11.h>

#include <vector>

#include "encoder.h"

namespace fastbert::binding {

template <class Weights>
struct Kept {
  Weights weights;
  std::vector<pybind11::object> owners;
};

using KeptMatrix = Kept<PackedMatrix>;
using KeptLayer = Kept<EncoderLayerWeights>;
using KeptAttentiveHead = Kept<AttentiveHead>;
using KeptPooledHead = Kept<PackedPooledHead>;

}  // namespace fastbert::binding
