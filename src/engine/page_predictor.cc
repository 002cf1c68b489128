#include "engine/page_predictor.h"

#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "policy/attend_options.h"

namespace purekv {
namespace {

constexpr int64_t kMostBytes = 100'000;

class PredictorFile {
 public:
  explicit PredictorFile(const std::string& path) : path_(path), text_(ReadFile(path, kMostBytes)) {
    entries_ = ParseSafetensorsHeader(std::as_bytes(std::span(text_)), text_.size(), path, &data_, &metadata_);
  }

  void CheckModel(const ModelInfo& model) const {
    const auto found = metadata_.find("fingerprint");
    if (found == metadata_.end()) {
      Fail(path_, ": __metadata__: no \"fingerprint\": of which model these numbers are is not said");
    }
    if (found->second == model.fingerprint) return;
    Fail(path_, ": trained with another model than ", model.directory, ": configuration or weights differ");
  }

  std::vector<float> Take(const std::string& name, const Shape& shape) {
    const auto found = entries_.find(name);
    if (found == entries_.end()) Fail(path_, ": tensor ", name, " is missing");
    const SafetensorsEntry& entry = found->second;
    if (entry.dtype != "F32") Fail(path_, ": tensor ", name, " is ", entry.dtype, "; expected F32");
    if (entry.shape != shape) {
      Fail(path_, ": tensor ", name, " has shape ", ShapeName(entry.shape), "; expected ", ShapeName(shape));
    }
    std::vector<float> numbers(static_cast<size_t>(entry.end - entry.begin) / sizeof(float));
    std::memcpy(numbers.data(), text_.data() + data_ + entry.begin, numbers.size() * sizeof(float));
    for (const float number : numbers) {
      if (!std::isfinite(number)) Fail(path_, ": tensor ", name, " has a number that is not finite");
    }
    taken_.insert(name);
    return numbers;
  }

  void CheckAllTaken() const {
    for (const auto& [name, entry] : entries_) {
      if (!taken_.contains(name)) Fail(path_, ": tensor ", name.substr(0, 200), " is none of a predictor's");
    }
  }

 private:
  std::string path_, text_;
  uint64_t data_ = 0;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, SafetensorsEntry> entries_;
  std::set<std::string> taken_;
};

}  // namespace

std::shared_ptr<const PageConvolution> ReadPagePredictor(const std::string& path, const ModelInfo& model) {
  constexpr int64_t kFirst = PageConvolutionWeights::kFirst, kSecond = PageConvolutionWeights::kSecond;
  PredictorFile file(path);
  PageConvolutionWeights weights;
  weights.conv1 = file.Take("conv1.weight", {kFirst, 1, 3, 3});
  weights.bias1 = file.Take("conv1.bias", {kFirst});
  weights.conv2 = file.Take("conv2.weight", {kSecond, kFirst, 3, 3});
  weights.bias2 = file.Take("conv2.bias", {kSecond});
  weights.conv3 = file.Take("conv3.weight", {1, kSecond, 1});
  weights.bias3 = file.Take("conv3.bias", {1}).front();
  file.CheckAllTaken();
  file.CheckModel(model);
  return std::make_shared<const PageConvolution>(std::move(weights));
}

std::shared_ptr<const PageConvolution> PredictorOf(const AttendOptions& options, const ModelInfo& model) {
  CheckAttendOptions(options);
  const std::string path = AttendFile(options);
  return path.empty() ? nullptr : ReadPagePredictor(path, model);
}

}  // namespace purekv
