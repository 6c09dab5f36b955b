// Activations of exit heads and encoder layers.
#pragma once
#include <cstdint>

#include "named.h"

namespace fastbert {

enum class Activation : int32_t { identity, tanh, relu, gelu };  // gelu by the error function

inline constexpr Named<Activation> kActivationNames[] = {{"identity", Activation::identity},
                                                         {"tanh", Activation::tanh},
                                                         {"relu", Activation::relu},
                                                         {"gelu", Activation::gelu}};
constexpr const auto& names_of(Activation) { return kActivationNames; }

}  // namespace fastbert
