// In place of the CUDA kernels, for a machine without a GPU: launchers that count their calls and return at once. What
// a host does for a layer is all there, from Python to the arguments of a launch; what the CUDA runtime does is not.
// For tests they can compute, by plain loops in float32.
// Nobody ever leaves: a compaction passes its samples on.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "attentive_head.h"
#include "binding/dlpack.h"
#include "compact.h"
#include "cuda_availability.h"
#include "cuda_driver.h"
#include "depth_graph.h"
#include "pooled_exit_head.h"

namespace dlpack = fastbert::binding::dlpack;

namespace {

int64_t launches = 0;
bool computing = false;

decltype(dlpack::ExchangeTable::view) view_of_torch = nullptr;

// Tensors of the CPU, as if they were on the first GPU.
int view_on_gpu(void* tensor, dlpack::Tensor* out) {
  const int status = view_of_torch(tensor, out);
  out->device = {dlpack::kCuda, 0};
  return status;
}

void* stream = nullptr;

int its_stream(int32_t, int32_t, void** out) {
  *out = stream;
  return 0;
}

}  // namespace

namespace fastbert::cuda {
namespace {

using Vector = std::vector<double>;

// in [rows of `in`] times weight [out, in]^T, and bias.
Vector linear(const Vector& in, const float* weight, const float* bias, int64_t out) {
  Vector result(bias, bias + out);
  for (int64_t o = 0; o < out; ++o)
    for (size_t i = 0; i < in.size(); ++i) result[o] += in[i] * weight[o * in.size() + i];
  return result;
}

// in [count] times matrix [count, out], and bias.
Vector transposed(const Vector& in, const float* matrix, const float* bias, int64_t out) {
  Vector result(bias, bias + out);
  for (size_t i = 0; i < in.size(); ++i)
    for (int64_t o = 0; o < out; ++o) result[o] += in[i] * matrix[i * out + o];
  return result;
}

Vector activated(Vector values, Activation activation) {
  for (double& value : values) {
    switch (activation) {
      case Activation::identity:
        break;
      case Activation::tanh:
        value = std::tanh(value);
        break;
      case Activation::relu:
        value = std::max(value, 0.0);
        break;
      case Activation::gelu:
        value *= 0.5 * std::erfc(-value / std::sqrt(2.0));
        break;
    }
  }
  return values;
}

Vector attentive_logits(const float* rows, int64_t length, const AttentiveHeadWeights& w, const AttentiveHeadShape& s) {
  const auto folded = [](const void* matrix) { return static_cast<const float*>(matrix); };
  std::vector<Vector> zed;
  for (int64_t row = 0; row < length; ++row) {
    const Vector x(rows + row * s.hidden_size, rows + (row + 1) * s.hidden_size);
    zed.push_back(
        activated(linear(x, folded(w.projection_weight), w.projection_bias, s.narrow_size), w.narrow_activation));
  }
  Vector contexts;
  for (int64_t head = 0; head < s.num_heads; ++head) {
    const Vector u = transposed(zed[0], folded(w.query) + head * s.narrow_size * s.narrow_size,
                                w.query_bias + head * s.narrow_size, s.narrow_size);
    Vector scores, context(s.narrow_size, 0.0);
    for (const Vector& z : zed) scores.push_back(std::inner_product(u.begin(), u.end(), z.begin(), 0.0));
    const double largest = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (size_t j = 0; j < zed.size(); ++j) {
      const double weight = std::exp(scores[j] - largest);
      total += weight;
      for (int64_t c = 0; c < s.narrow_size; ++c) context[c] += weight * zed[j][c];
    }
    for (const double value : context) contexts.push_back(value / total);
  }
  const Vector features =
      activated(transposed(contexts, folded(w.value), w.value_bias, s.narrow_size), w.mlp_activation);
  return linear(features, w.output_weight, w.output_bias, s.num_labels);
}

Vector pooled_logits(const float* rows, int64_t length, const PooledHeadWeights& head) {
  const int64_t width = head.size[0];
  Vector values(rows, rows + width);
  for (int64_t row = 1; row < length && head.pooling != Pooling::first; ++row)
    for (int64_t i = 0; i < width; ++i) {
      const double value = rows[row * width + i];
      values[i] = head.pooling == Pooling::max ? std::max(values[i], value) : values[i] + value;
    }
  if (head.pooling == Pooling::mean)
    for (double& value : values) value /= static_cast<double>(length);
  for (int32_t k = 0; k < head.num_layers; ++k) {
    if (k > 0) values = activated(values, head.activation);
    values = linear(values, static_cast<const float*>(head.weight[k]), head.bias[k], head.size[k + 1]);
  }
  return values;
}

// Logits of each sample, and the decision.
template <class Logits>
int decide(const void* hidden, DType dtype, int64_t width, const int32_t* cu_seqlens, int64_t batch, int64_t labels,
           const Decision& decision, const DecisionOutputs& outputs, Logits logits) {
  ++launches;
  if (!computing) return 0;
  if (dtype != DType::float32) return 1;
  for (int64_t sample = 0; sample < batch; ++sample) {
    const int64_t begin = cu_seqlens[sample], length = cu_seqlens[sample + 1] - begin;
    Vector found(labels, NAN);
    if (length > 0) found = logits(static_cast<const float*>(hidden) + begin * width, length);
    std::copy(found.begin(), found.end(), outputs.logits + sample * labels);
  }
  cpu::decide(outputs.logits, batch, labels, decision, outputs);
  return 0;
}

}  // namespace

const char* attentive_head_unsupported(const AttentiveHeadShape&, const AttentiveHeadWeights&, DType) {
  return nullptr;
}

int attentive_head(const void* hidden, DType dtype, const int32_t* cu_seqlens, const AttentiveHeadWeights& weights,
                   const AttentiveHeadShape& shape, const Decision& decision, const DecisionOutputs& outputs, int,
                   void*) {
  const auto logits = [&](const float* rows, int64_t length) { return attentive_logits(rows, length, weights, shape); };
  return decide(hidden, dtype, shape.hidden_size, cu_seqlens, shape.batch, shape.num_labels, decision, outputs, logits);
}

const char* pooled_exit_head_unsupported(const PooledHeadWeights&, DType) { return nullptr; }

int pooled_exit_head(const void* hidden, DType dtype, int64_t, const int32_t* cu_seqlens, int64_t batch,
                     const PooledHeadWeights& head, const Decision& decision, const DecisionOutputs& outputs, int,
                     void*) {
  const auto logits = [&](const float* rows, int64_t length) { return pooled_logits(rows, length, head); };
  return decide(hidden, dtype, head.size[0], cu_seqlens, batch, head.size[head.num_layers], decision, outputs, logits);
}

int compact(const PackedBatch& batch, const CompactedBatch& out, const Results& results, int, void*) {
  ++launches;
  if (computing) {
    cpu::compact(batch, out, results);
    return 0;
  }
  std::memcpy(out.hidden, batch.hidden, static_cast<size_t>(batch.tokens * batch.row_bytes));
  std::copy_n(batch.cu_seqlens, batch.batch + 1, out.cu_seqlens);
  std::copy_n(batch.sample_index, batch.batch, out.sample_index);
  std::copy_n(batch.speed, batch.batch, out.speed);
  std::copy_n(batch.history, 2 * batch.batch, out.history);
  out.counts[0] = static_cast<int32_t>(batch.batch);
  out.counts[1] = static_cast<int32_t>(batch.tokens);
  return 0;
}

const char* depth_graph_unsupported() { return "a stand-in has no graphs"; }
int make_depth_graph(const DepthStage*, int64_t, int, void**) { return 1; }
int launch_depth_graph(void*, int, void*) { return 1; }
int destroy_depth_graph(void*) { return 0; }

std::string kernels_unavailable(int) { return {}; }
std::string error_in_words(int) { return "a stand-in"; }

}  // namespace fastbert::cuda

namespace {

// What the driver was last given.
struct DriverLaunch {
  uint64_t function, blocks, threads, shared_bytes, stream, count;
  uint64_t parameters[16];
};
DriverLaunch last_launch = {};
thread_local uint64_t context = 1;

}  // namespace

namespace fastbert::cuda_driver {

void* current_context() { return reinterpret_cast<void*>(context); }

int launch(const Kernel& kernel, uint32_t blocks, void* on, const Parameter* parameters, size_t count) {
  ++launches;
  last_launch = {reinterpret_cast<uint64_t>(kernel.function),
                 blocks,
                 kernel.threads,
                 kernel.shared_bytes,
                 reinterpret_cast<uint64_t>(on),
                 count,
                 {}};
  for (size_t i = 0; i < count; ++i) last_launch.parameters[i] = parameters[i].bits;
  return 0;
}

std::string error_in_words(int) { return "a stand-in"; }

}  // namespace fastbert::cuda_driver

extern "C" {

[[gnu::visibility("default")]] int64_t count_launches() { return launches; }

[[gnu::visibility("default")]] const DriverLaunch* last_driver_launch() { return &last_launch; }

// The context is that of this thread.
[[gnu::visibility("default")]] void set_current(uint64_t new_context, uint64_t new_stream) {
  context = new_context;
  stream = reinterpret_cast<void*>(new_stream);
}

[[gnu::visibility("default")]] void compute(int whether) { computing = whether != 0; }

// A table by which the module takes the tensors of torch's own table for those of a GPU.
[[gnu::visibility("default")]] const dlpack::ExchangeTable* table_on_gpu(const dlpack::ExchangeTable* of_torch) {
  static dlpack::ExchangeTable table;
  table = *of_torch;
  view_of_torch = of_torch->view;
  table.view = view_on_gpu;
  table.current_stream = its_stream;
  return &table;
}
}
