// The encoder layer on a CPU: products with weights packed once, what follows a product done to its tiles while they are
// in the first-level cache, attention per sample and head, and no padding anywhere. A thread takes a group of samples
// through layer after layer; within a group, work is shared with those threads that have no group.
#include "encoder_layer.h"

#include <algorithm>
#include <vector>

#include "cpu/memory.h"
#include "cpu/product.h"
#include "cpu/profile.h"
#include "cpu/samples.h"
#include "cpu/threads.h"

namespace fastbert::cpu {
namespace {

// Tokens of a group: enough to read the weights for, and few enough for what lies between the products to stay in the
// last-level cache.
constexpr int64_t kFewestTokens = 128, kMostTokens = 256;

constexpr int64_t kBlockRows = 16;  // of what is done row by row

// Waking the other threads and meeting them behind every part takes longer than a few microseconds of work.
constexpr int64_t kFewestMultiplyAdds = 1 << 22;

// From row to row of what a product takes in place of rows of `dtype`: bytes of int8 products, float32 where no instruction
// multiplies 16 bits. To widen a row once costs less than to do it again for every panel. 0 where it takes them as they are.
int64_t prepared_row_bytes(const PackedMatrix& matrix, DType dtype) {
  if (matrix.operand == DType::int8) return spread_bytes(kernels().quantised_row_bytes(matrix.depth));
  if (matrix.operand == DType::float32 && dtype != DType::float32)
    return spread_bytes(matrix.depth * element_size(DType::float32));
  return 0;
}

// What lies between the products of one group.
struct Workspace {
  Workspace(int64_t tokens, const EncoderLayerWeights& weights, DType dtype) {
    const int64_t width = weights.qkv.depth, inner = weights.intermediate.outputs, element = element_size(dtype);
    wide = aligned_array<char>(tokens * std::max(3 * width * element, spread_bytes(inner * element)));
    narrow = aligned_array<char>(tokens * width * element);
    sums = aligned_array<float>(tokens * width);
    int64_t most = 0;
    for (const PackedMatrix* matrix : {&weights.qkv, &weights.attention_output, &weights.intermediate, &weights.output})
      most = std::max(most, prepared_row_bytes(*matrix, dtype));
    if (most == 0) return;
    prepared = aligned_array<char>(tokens * most);
    scale = aligned_array<float>(tokens);
    shift = aligned_array<int32_t>(tokens);
  }

  AlignedArray<char> wide;      // q, k and v [T, 3H], later the intermediate values [T, I], whose rows are spread
  AlignedArray<char> narrow;    // attention's context, later A [T, H]
  AlignedArray<float> sums;     // what goes into a LayerNorm [T, H]
  AlignedArray<char> prepared;  // rows of the product at hand, where it does not take them as they are
  AlignedArray<float> scale;    // of quantised rows
  AlignedArray<int32_t> shift;
};

class Group {
 public:
  Group(const void* hidden, DType dtype, const int32_t* cu_seqlens, int64_t batch, const EncoderLayerWeights& weights,
        void* out, const Workspace& workspace)
      : hidden_(hidden),
        dtype_(dtype),
        cu_seqlens_(cu_seqlens),
        batch_(batch),
        weights_(weights),
        out_(out),
        space_(workspace),
        tokens_(cu_seqlens[batch] - cu_seqlens[0]),
        width_(weights.qkv.depth),
        inner_(weights.intermediate.outputs),
        inner_stride_(spread_bytes(inner_ * element_size(dtype)) / element_size(dtype)) {}

  void run(Stopwatch watch) const {
    multiply(weights_.qkv, hidden_, width_, {space_.wide.get(), dtype_, 3 * width_});
    watch.lap(Phase::qkv);
    attend();
    watch.lap(Phase::attention);
    multiply(weights_.attention_output, space_.narrow.get(), width_,
             {space_.sums.get(), DType::float32, width_, Epilogue::none, hidden_, dtype_, width_});
    watch.lap(Phase::attention_output);
    normalise(weights_.norms, space_.narrow.get());
    watch.lap(Phase::norm);
    const Epilogue activation = weights_.activation == Activation::relu ? Epilogue::relu : Epilogue::gelu;
    multiply(weights_.intermediate, space_.narrow.get(), width_,
             {space_.wide.get(), dtype_, inner_stride_, activation});
    watch.lap(Phase::intermediate);
    multiply(weights_.output, space_.wide.get(), inner_stride_,
             {space_.sums.get(), DType::float32, width_, Epilogue::none, space_.narrow.get(), dtype_, width_});
    watch.lap(Phase::output);
    normalise(weights_.norms + 2 * width_, out_);
    watch.lap(Phase::norm);
  }

 private:
  const char* row_of(const void* rows, int64_t row, int64_t width) const {
    return static_cast<const char*>(rows) + row * width * element_size(dtype_);
  }

  void multiply(const PackedMatrix& matrix, const void* rows, int64_t row_stride, const ProductOutput& output) const {
    const int64_t stride = prepared_row_bytes(matrix, dtype_);
    if (stride == 0) {
      share_product(matrix, {rows, dtype_, row_stride, nullptr, nullptr}, output, tokens_);
      return;
    }
    const bool quantised = matrix.operand == DType::int8;
    parallel_for_blocks(tokens_, kBlockRows, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        char* to = space_.prepared.get() + row * stride;
        if (quantised) {
          kernels().quantise_row(row_of(rows, row, row_stride), dtype_, matrix.depth, to, space_.scale.get() + row,
                                 space_.shift.get() + row);
        } else {
          kernels().widen_row(row_of(rows, row, row_stride), dtype_, matrix.depth, reinterpret_cast<float*>(to));
        }
      }
    });
    if (quantised) {
      share_product(matrix, {space_.prepared.get(), DType::int8, stride, space_.scale.get(), space_.shift.get()},
                    output, tokens_);
    } else {
      share_product(matrix,
                    {space_.prepared.get(), DType::float32, stride / element_size(DType::float32), nullptr, nullptr},
                    output, tokens_);
    }
  }

  void attend() const {
    const int64_t heads = weights_.num_attention_heads, size = width_ / heads, positions = weights_.positions;
    const DType operand = dtype_ == DType::bfloat16 ? weights_.attention_operand : DType::float32;
    parallel_for(batch_ * heads, [&](int64_t item) {
      const int64_t sample = item / heads, head = item % heads;
      const int64_t begin = cu_seqlens_[sample] - cu_seqlens_[0], n = cu_seqlens_[sample + 1] - cu_seqlens_[sample];
      if (n == 0) return;
      const int64_t column = head * size * element_size(dtype_);
      const float* bias = weights_.position_bias;
      if (bias != nullptr) bias += head * (2 * positions - 1) + positions - 1;
      const AlignedArray<float> scratch = aligned_array<float>(kernels().self_attention_scratch(n, size));
      kernels().self_attention({row_of(space_.wide.get(), begin, 3 * width_) + column,
                                space_.narrow.get() + begin * width_ * element_size(dtype_) + column, dtype_, operand,
                                n, size, width_, 3 * width_, width_, bias},
                               scratch.get());
    });
  }

  void normalise(const float* vectors, void* out) const {
    const LayerNorm norm{vectors, vectors + width_, weights_.layer_norm_eps, weights_.layer_norm};
    parallel_for_blocks(tokens_, kBlockRows, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        kernels().layer_norm_row(space_.sums.get() + row * width_, norm, width_, dtype_,
                                 static_cast<char*>(out) + row * width_ * element_size(dtype_));
    });
  }

  const void* hidden_;
  DType dtype_;
  const int32_t* cu_seqlens_;
  int64_t batch_;
  const EncoderLayerWeights& weights_;
  void* out_;
  const Workspace& space_;
  int64_t tokens_, width_, inner_, inner_stride_;
};

// Groups of whole samples with about the same number of tokens: as many for each thread, where that is possible.
std::vector<Range> divide_into_groups(const int32_t* cu_seqlens, int64_t batch) {
  const int64_t tokens = cu_seqlens[batch], threads = available_threads();
  const int64_t fewest = std::max<int64_t>((tokens + kMostTokens - 1) / kMostTokens, 1);
  const int64_t for_each_thread = (fewest + threads - 1) / threads * threads;
  const int64_t count = for_each_thread * kFewestTokens <= tokens ? for_each_thread : fewest;
  std::vector<Range> groups;
  int64_t begin = 0;
  for (int64_t group = 1; group <= count && begin < batch; ++group) {
    const int64_t target = tokens * group / count;
    int64_t end = begin + 1;
    while (end < batch && cu_seqlens[end] < target) ++end;
    groups.push_back({begin, end});
    begin = end;
  }
  return groups;
}

}  // namespace

void encoder_layers(const void* hidden, DType dtype, const int32_t* cu_seqlens, int64_t batch,
                    const std::vector<const EncoderLayerWeights*>& layers, void* const (&rows)[2]) {
  const std::vector<Range> groups = divide_into_groups(cu_seqlens, batch);
  const EncoderLayerWeights& first = *layers.front();
  const int64_t width = first.qkv.depth, row_bytes = width * element_size(dtype);
  const int64_t multiply_adds = cu_seqlens[batch] * width * (4 * width + 2 * first.intermediate.outputs);
  const Alone alone(multiply_adds <= kFewestMultiplyAdds);
  SharedPhases phases;
  parallel_for(static_cast<int64_t>(groups.size()), [&](int64_t i) {
    const Range samples = groups[i];
    const int64_t begin = cu_seqlens[samples.begin], tokens = cu_seqlens[samples.end] - begin;
    const void* in = hidden;
    PhaseSeconds seconds = {};
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      void* out = rows[layer % 2];
      const Workspace workspace(tokens, *layers[layer], dtype);
      Group(static_cast<const char*>(in) + begin * row_bytes, dtype, cu_seqlens + samples.begin,
            samples.end - samples.begin, *layers[layer], static_cast<char*>(out) + begin * row_bytes, workspace)
          .run(Stopwatch(phases.on() ? &seconds : nullptr));
      in = out;
    }
    if (phases.on()) phases.add(seconds);
  });
}

}  // namespace fastbert::cpu
