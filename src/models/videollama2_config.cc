#include "models/videollama2_config.h"

#include "base/error.h"
#include "models/text_backbone.h"

namespace purekv {

VideoLlama2Config ParseVideoLlama2Config(const Json& json, const std::string& backbone, const std::string& path,
                                         const std::string& directory) {
  const JsonFields root(json, path);
  VideoLlama2Config config;
  config.text = ParseBackbone(root, backbone);
  config.tower = ReadNamedTower(root, directory);
  const std::string type = root.String("mm_projector_type");
  if (type != "stc_connector" && type != "stc_connector_v35") {
    Fail(path, ": mm_projector_type \"", type, "\" is not supported; stc_connector and stc_connector_v35 are");
  }
  config.connector = {config.tower.vision.hidden, config.text.decoder.hidden, type == "stc_connector",
                      "model.mm_projector."};
  config.frames = root.Int("num_frames", 1, kVideoLlama2MostFrames, 8);
  const int64_t side = config.tower.vision.side();
  if (config.connector.cells({config.frames, side, side}).patches() == 0) {
    Fail(path, ": num_frames ", config.frames, " of ", side, " x ", side, " patches leave ", type, " no token");
  }
  return config;
}

}  // namespace purekv
