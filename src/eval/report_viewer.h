// The data of the report's viewer: the videos that a run stored, what every answer about them kept, and the shares of
// each layer and head.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "eval/results.h"

namespace purekv {

// A video that the viewer can show.
struct ViewerVideo {
  std::string name;
  std::string jpeg;   // sheet of frames
  OrderedJson sheet;  // SheetJson
  struct Question {
    std::string id, type, prompt, reference;
    std::vector<int64_t> evidence;  // indices among the visual tokens
  };
  std::vector<Question> questions;
};

// The viewer's videos that an evaluation stored. Throws Error naming the file that is wrong.
std::vector<ViewerVideo> StoredVideos(const std::string& directory, const std::vector<EvalResult>& results);

// Numbers settings and kept sets as they come. Points into the results.
class ViewerData {
 public:
  explicit ViewerData(const std::vector<EvalResult>& results);

  // The number of a setting; a new one gets the next.
  size_t Setting(const std::string& policy, double budget, const std::string& when);
  // What a video adds. `bytes`: about how many.
  OrderedJson Video(const ViewerVideo& video, int64_t* bytes);
  // What the page's script reads.
  OrderedJson Json(OrderedJson videos, OrderedJson shares) const;

 private:
  std::map<std::string, std::vector<const EvalResult*>> of_;
  std::map<std::tuple<std::string, double, std::string>, size_t> settings_;
  std::map<std::string, size_t> kept_;
  OrderedJson list_ = OrderedJson::array(), kept_list_ = OrderedJson::array();
  size_t layers_ = 0, heads_ = 0;
};

// Per setting the shares that each layer and head keeps of the visual tokens and of the evidence, to four digits.
OrderedJson SharesJson(const std::vector<EvalResult>& results, ViewerData* data);

}  // namespace purekv
