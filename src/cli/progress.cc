#include "cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace purekv::cli {
namespace {

constexpr std::chrono::milliseconds kSilence{1000};  // work shorter than this shows nothing
constexpr std::chrono::milliseconds kBetween{100};   // drawing more often only burns time
constexpr int kWidth = 30;

}  // namespace

Progress::Progress() : enabled_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  Clear();
}

ProgressFunction Progress::Function() {
  if (!enabled_) return {};
  return [this](const char* stage, int64_t done, int64_t total) { Show(stage, done, total); };
}

void Progress::Show(const std::string& stage, int64_t done, int64_t total) {
  const Clock::time_point now = Clock::now();
  if (!enabled_ || stage == muted_ || now - start_ < kSilence || (shown_ && now - last_ < kBetween)) return;
  last_ = now;
  shown_ = true;
  if (total <= 0) {  // how long it takes is not known
    std::fprintf(stderr, "\r\x1b[K%s %lld", stage.c_str(), static_cast<long long>(done));
  } else {
    const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    const auto filled = static_cast<size_t>(share * kWidth);
    const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, '.');
    std::fprintf(stderr, "\r\x1b[K%-10s [%s] %3d %%", stage.c_str(), bar.c_str(), static_cast<int>(share * 100));
  }
  std::fflush(stderr);
}

void Progress::Clear() {
  if (!shown_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace purekv::cli
