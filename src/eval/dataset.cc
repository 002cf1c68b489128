#include "eval/dataset.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "eval/dataset_formats.h"

namespace purekv {
namespace {

constexpr int64_t kMaxFile = int64_t{1} << 30;

// Which format a document is, by what only that one has. JSON lines are no single document.
std::optional<DataFormat> Guess(const Json& document) {
  if (document.is_object()) {
    return document.contains("meta_data") && document.contains("data") ? std::optional(DataFormat::kMileBench)
                                                                       : std::nullopt;
  }
  if (!document.is_array() || document.empty() || !document[0].is_object()) return std::nullopt;
  if (document[0].contains("candidates")) return DataFormat::kMvBench;
  if (document[0].contains("questions") || document[0].contains("question_id")) return DataFormat::kVideoMme;
  return std::nullopt;
}

}  // namespace

const std::vector<std::string>& DataFormatNames() {
  static const std::vector<std::string> names = {"auto", "purekv", "video-mme", "mvbench", "milebench"};
  return names;
}

Dataset ParseDataset(std::string_view text, const std::string& path, const DataOptions& options) {
  Dataset dataset;
  dataset.format = options.format;
  const size_t start = text.find_first_not_of(" \t\r\n");
  const bool list = start != std::string_view::npos && text[start] == '[';
  // An object alone is either one line of ours or MileBench's document: only the latter spreads over "data".
  const bool whole = list || (options.format == DataFormat::kAuto && text.find("\"meta_data\"") < 4096) ||
                     options.format == DataFormat::kMileBench;
  if (dataset.format == DataFormat::kAuto && !whole) dataset.format = DataFormat::kPureKv;
  data_formats::Collector collector(path, options, &dataset);
  if (dataset.format == DataFormat::kPureKv) {
    data_formats::ReadPureKv(text, &collector);
  } else {
    const Json document = ParseJson(text, path);
    if (dataset.format == DataFormat::kAuto) {
      const auto guess = Guess(document);
      if (!guess) {
        Fail(path, ": of no known format; ", Field{"eval.data_format"},
             " says which: purekv, video-mme, mvbench or milebench");
      }
      dataset.format = *guess;
    }
    if (dataset.format == DataFormat::kMileBench) {
      data_formats::ReadMileBench(document, &collector);
    } else if (!document.is_array()) {
      Fail(path, ": a list of questions is needed");
    } else if (dataset.format == DataFormat::kMvBench) {
      data_formats::ReadMvBench(document, &collector);
    } else {
      data_formats::ReadVideoMme(document, &collector);
    }
  }
  if (dataset.questions.empty() && dataset.problems.empty()) Fail(path, ": holds no question");
  return dataset;
}

Dataset LoadDataset(const std::string& path, const DataOptions& options) {
  return ParseDataset(ReadFile(path, kMaxFile), path, options);
}

}  // namespace purekv
