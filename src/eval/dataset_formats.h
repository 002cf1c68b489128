// The formats that data sets are published in: one reader each, in a file of its own. docs/evaluation.md describes
// them.
#pragma once

#include <string_view>

#include "checkpoint/json.h"
#include "eval/dataset_records.h"

namespace purekv::data_formats {

// Ours: one object per line.
void ReadPureKv(std::string_view text, Collector* into);
// A list of videos, each with its questions (the project's JSON), or one question per element.
void ReadVideoMme(const Json& list, Collector* into);
// json/<task>.json, a list of {video, question, candidates, answer}.
void ReadMvBench(const Json& list, Collector* into);
// <task>/<task>.json with meta_data and data; images lie in <task>/images.
void ReadMileBench(const Json& object, Collector* into);

}  // namespace purekv::data_formats
