#include "models/named_tower.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace purekv {
namespace {

// A configuration must not be able to name any other file of the machine.
bool StaysInside(const std::string& path) {
  return !path.empty() && path.front() != '/' && ("/" + path + "/").find("/../") == path.npos &&
         path.find('\0') == path.npos;
}

}  // namespace

NamedTower ReadNamedTower(const JsonFields& root, const std::string& directory) {
  NamedTower tower;
  const std::string name = root.String("mm_vision_tower");
  const std::string where = root.where() + ": mm_vision_tower";
  if (!directory.empty() && StaysInside(name)) {
    const std::string folder = JoinPath(directory, name);
    if (FileExists(JoinPath(folder, "config.json"))) tower.directory = folder;
  }
  if (tower.directory.empty()) {
    tower.vision = NamedVit(name, where);
  } else {
    const std::string path = JoinPath(tower.directory, "config.json");
    const Json json = ReadJson(path);
    tower.config = json.dump();
    tower.vision = ParseVitConfig(JsonFields(json, path));
  }
  tower.vision.prefix = "model.vision_tower.vision_tower.vision_model.";
  SelectLayer(root.Int("mm_vision_select_layer", -kMaxVitLayers, kMaxVitLayers),
              root.where() + ": mm_vision_select_layer", &tower.vision);
  if (const std::string feature = root.String("mm_vision_select_feature", "patch"); feature != "patch") {
    Fail(root.where(), ": mm_vision_select_feature \"", feature, "\" is not supported; \"patch\" is");
  }
  if (const int64_t hidden = root.Int("mm_hidden_size", 1, 1 << 20, tower.vision.hidden);
      hidden != tower.vision.hidden) {
    Fail(root.where(), ": mm_hidden_size ", hidden, " contradicts the tower's ", tower.vision.hidden);
  }
  const std::string aspect = root.String("image_aspect_ratio", "square");
  if (aspect != "pad" && aspect != "square") {
    Fail(root.where(), ": image_aspect_ratio \"", aspect, "\" is not supported; \"pad\" and \"square\" are");
  }
  tower.pad = aspect == "pad";
  if (root.Bool("mm_use_im_start_end", false)) {
    Fail(root.where(), ": mm_use_im_start_end true is not supported; false is");
  }
  return tower;
}

}  // namespace purekv
