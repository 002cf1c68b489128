#include "bench/plain_read.h"

#include <algorithm>
#include <atomic>

#include "base/error.h"
#include "base/threads.h"
#include "bench/inputs.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/plain_read.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kLine = 64;

template <int kStreams>
uint64_t SumOf(const char* data, int64_t bytes) {
  const hn::ScalableTag<uint64_t> d;
  constexpr auto kStep = static_cast<int64_t>(hn::MaxLanes(d) * sizeof(uint64_t));
  const int64_t part = bytes / kStreams / kLine * kLine;
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < part; i += kLine) {
    HWY_UNROLL(16)
    for (int s = 0; s < kStreams; ++s) {
      const char* from = data + s * part + i;
      HWY_UNROLL(4)
      for (int64_t b = 0; b < kLine; b += kStep) {
        sum = hn::Add(sum, hn::LoadU(d, reinterpret_cast<const uint64_t*>(from + b)));
      }
    }
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

uint64_t SumPiece(const char* data, int64_t bytes, int64_t streams) {
  switch (streams) {
    case 1:
      return SumOf<1>(data, bytes);
    case 4:
      return SumOf<4>(data, bytes);
    case 8:
      return SumOf<8>(data, bytes);
    default:
      return SumOf<16>(data, bytes);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv::bench {
namespace {

HWY_EXPORT(SumPiece);

std::atomic<uint64_t> g_sum;  // so that no compiler finds the reads useless

}  // namespace

PlainRead::PlainRead(std::vector<std::pair<const char*, int64_t>> memory) : memory_(std::move(memory)) {
  for (const auto& [data, bytes] : memory_) bytes_ += static_cast<double>(bytes);
  double best = 1e30;
  Read({});  // the first touch of a page is not what is compared
  for (const int64_t piece : {int64_t{256} << 10, int64_t{1} << 20, int64_t{8} << 20}) {
    for (const int64_t streams : {1, 4, 8, 16}) {
      const Plan plan{streams, piece};
      const double seconds = Seconds([&] { Read(plan); });
      if (seconds < best) {
        best = seconds;
        plan_ = plan;
      }
    }
  }
}

void PlainRead::Run() const {
  Read(plan_);
}

void PlainRead::Read(const Plan& plan) const {
  UseCpuLevel();
  struct Piece {
    const char* data;
    int64_t bytes;
  };
  std::vector<Piece> pieces;
  for (const auto& [data, bytes] : memory_) {
    const int64_t step = plan.piece > 0 ? plan.piece : bytes;
    for (int64_t at = 0; at < bytes; at += step) pieces.push_back({data + at, std::min(step, bytes - at)});
  }
  ParallelFor(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    g_sum += HWY_DYNAMIC_DISPATCH(SumPiece)(piece.data, piece.bytes, plan.streams);
  });
}

std::string PlainRead::chunking() const {
  return StrCat(plan_.streams, plan_.streams == 1 ? " stream" : " streams", " in pieces of ", plan_.piece >> 10, " KB");
}

}  // namespace purekv::bench
#endif  // HWY_ONCE
