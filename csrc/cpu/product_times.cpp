#include "cpu/product_times.h"

#include <algorithm>
#include <cstring>
#include <ctime>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/product.h"

namespace fastbert::cpu {
namespace {

constexpr int64_t kRows = 96;   // whole tiles of any operand
constexpr int64_t kPanels = 2;  // of weights, which stay in the caches

// Of this thread alone: what other processes on the core take does not count.
double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <class Run>
double seconds_of(const Run& run) {
  const double begin = cpu_seconds();
  run();
  return cpu_seconds() - begin;
}

// Values from -1 to 1 that do not repeat soon.
AlignedArray<float> numbers(int64_t count) {
  AlignedArray<float> made = aligned_array<float>(count);
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    made[i] = static_cast<float>(static_cast<int>(state >> 16) % 201 - 100) / 100.0f;
  }
  return made;
}

class Trial {
 public:
  Trial(ProductWay way, int64_t depth, const float* weight, const float* values)
      : way_(way),
        depth_(depth),
        outputs_(kPanels * kernels().panel_width),
        panels_(aligned_array<char>(packed_matrix_bytes(outputs_, depth, way.operand))),
        row_bytes_(spread_bytes(depth * element_size(way.rows))),
        rows_(aligned_array<char>(kRows * row_bytes_)),
        stride_(spread_bytes(way.operand == DType::int8 ? kernels().quantised_row_bytes(depth) : depth * 4)),
        prepared_(aligned_array<char>(kRows * stride_)),
        scale_(aligned_array<float>(kRows)),
        shift_(aligned_array<int32_t>(kRows)),
        sums_(aligned_array<float>(kRows * outputs_)) {
    const AlignedArray<float> bias = numbers(outputs_);
    pack_matrix(weight, bias.get(), matrix(), panels_.get());
    const int64_t element = element_size(way.rows);
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t k = 0; k < depth; ++k)  // the upper half of a float32 value is one in bfloat16
        std::memcpy(rows_.get() + r * row_bytes_ + k * element,
                    reinterpret_cast<const char*>(values + r * depth + k) + (element == 2 ? 2 : 0), element);
  }

  void measure(ProductTime& least) const {
    ProductRows rows{rows_.get(), way_.rows, row_bytes_ / element_size(way_.rows), nullptr, nullptr};
    double prepare = 0.0;
    if (way_.operand == DType::int8) {
      prepare = seconds_of([&] {
        for (int64_t r = 0; r < kRows; ++r)
          kernels().quantise_row(row(r), way_.rows, depth_, prepared_.get() + r * stride_, &scale_[r], &shift_[r]);
      });
      rows = {prepared_.get(), DType::int8, stride_, scale_.get(), shift_.get()};
    } else if (way_.operand != way_.rows) {
      prepare = seconds_of([&] {
        for (int64_t r = 0; r < kRows; ++r)
          kernels().widen_row(row(r), way_.rows, depth_, reinterpret_cast<float*>(prepared_.get() + r * stride_));
      });
      rows = {prepared_.get(), DType::float32, stride_ / element_size(DType::float32), nullptr, nullptr};
    }
    const double multiply = seconds_of(
        [&] { kernels().product(matrix(), rows, {sums_.get(), DType::float32, outputs_}, {0, kRows}, {0, kPanels}); });
    const auto elements = static_cast<double>(kRows * depth_);
    least.prepare = std::min(least.prepare, prepare / elements);
    least.multiply = std::min(least.multiply, multiply / (elements * static_cast<double>(outputs_)));
  }

 private:
  PackedMatrix matrix() const { return {panels_.get(), outputs_, depth_, way_.operand}; }
  const char* row(int64_t index) const { return rows_.get() + index * row_bytes_; }

  ProductWay way_;
  int64_t depth_, outputs_;
  AlignedArray<char> panels_;
  int64_t row_bytes_;  // from row to row
  AlignedArray<char> rows_;
  int64_t stride_;  // from row to row of `prepared_`, in bytes
  AlignedArray<char> prepared_;
  AlignedArray<float> scale_;
  AlignedArray<int32_t> shift_;
  AlignedArray<float> sums_;
};

}  // namespace

std::vector<ProductTime> time_products(const std::vector<ProductWay>& ways, int64_t depth, int rounds) {
  const AlignedArray<float> weight = numbers(kPanels * kernels().panel_width * depth), values = numbers(kRows * depth);
  std::vector<Trial> trials;
  for (const ProductWay& way : ways) trials.emplace_back(way, depth, weight.get(), values.get());
  std::vector<ProductTime> least(ways.size(), {1.0, 1.0});
  for (int round = 0; round < rounds; ++round)
    for (size_t i = 0; i < trials.size(); ++i) trials[i].measure(least[i]);
  return least;
}

}  // namespace fastbert::cpu
