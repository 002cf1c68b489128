// Questions about videos, images and texts, read from the files that data sets are published in. docs/evaluation.md
// describes every format. Pure text work: whether a medium can be decoded, or a file of text is one, shows when it is
// read.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "purekv/error.h"
#include "purekv/media.h"

namespace purekv {

struct EvalQuestion {
  std::string id;                    // unique in the set
  std::string type;                  // "colour", "Counting Problem"; "" where the set has none
  std::string length;                // class of video length: "short", ...; "" where the set has none
  std::string prompt;                // as the model gets it, choices included
  std::string answer;                // reference; of a multiple choice the letter
  std::vector<std::string> choices;  // texts of the options A, B, ...; empty: an open question
  // A right answer holds every one of these, before any that it must lack (metrics.h, Contains); empty: not judged so.
  std::vector<std::string> contains, lacks;
  std::string video;  // names media and text for people; questions about the same media, times and text share a prefill
  std::vector<MediaSource> media;
  std::vector<std::string> media_texts;          // in front of each medium, as Turn has them; empty: none
  std::string text;                              // a context behind the media, "" where there is none,
  std::string text_file;                         // or the path of one
  std::vector<std::array<int64_t, 3>> evidence;  // [slice, row, column] of merged cells that the answer rests on
};

// Something that was left out, and why: one line for people.
struct DataProblem {
  std::string where;  // "questions.jsonl:17", "line 3 (id x)"
  Message what;
};

enum class DataFormat { kAuto, kPureKv, kVideoMme, kMvBench, kMileBench };
// "auto", "purekv", "video-mme", "mvbench", "milebench", in the order of the enum.
const std::vector<std::string>& DataFormatNames();

struct DataOptions {
  DataFormat format = DataFormat::kAuto;
  std::string media_root;   // where media and texts lie; empty: beside the file
  bool keep_going = false;  // leave out what is wrong instead of throwing
  bool check_media = true;  // a medium or a text file that is not there is a problem
};

struct Dataset {
  DataFormat format = DataFormat::kPureKv;
  std::vector<EvalQuestion> questions;  // in the file's order
  std::vector<DataProblem> problems;    // with keep_going
};

// Parses text from `path` (named in messages; a file name alone decides nothing). Throws Error naming line, field and
// what would be right, at the first problem unless options.keep_going.
Dataset ParseDataset(std::string_view text, const std::string& path, const DataOptions& options);
Dataset LoadDataset(const std::string& path, const DataOptions& options);

}  // namespace purekv
