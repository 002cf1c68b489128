// A calibration as profile.json and as a picture.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/json.h"
#include "engine/profile_format.h"
#include "policy/registry.h"
#include "purekv/calibrate.h"

namespace purekv {
namespace {

using OrderedJson = nlohmann::ordered_json;

double Round(double x) {
  return std::round(x * 1e4) / 1e4;
}

OrderedJson Rounded(const std::vector<double>& values) {
  OrderedJson list = OrderedJson::array();
  for (const double x : values) list.push_back(Round(x));
  return list;
}

// Row s holds layers s ...: below the source there is nothing.
OrderedJson Map(const std::vector<std::vector<double>>& map) {
  OrderedJson rows = OrderedJson::array();
  for (size_t s = 0; s < map.size(); ++s) {
    rows.push_back(Rounded({map[s].begin() + static_cast<std::ptrdiff_t>(s), map[s].end()}));
  }
  return rows;
}

OrderedJson Rows(const std::vector<std::vector<double>>& table) {
  OrderedJson rows = OrderedJson::array();
  for (const auto& row : table) rows.push_back(Rounded(row));
  return rows;
}

OrderedJson Drops(const std::vector<DropLayer>& drops) {
  OrderedJson list = OrderedJson::array();
  for (const DropLayer& drop : drops) list.push_back({{"layer", drop.layer}, {"alive", drop.alive}});
  return list;
}

OrderedJson Trials(const std::vector<CalibrationTrial>& trials) {
  OrderedJson list = OrderedJson::array();
  for (const CalibrationTrial& trial : trials) {
    list.push_back({{"budget", trial.budget},
                    {"sources", trial.sources},
                    {"options", trial.options},
                    {"drop_layers", Drops(trial.drop_layers)},
                    {"loss", Round(trial.loss)},
                    {"cost", Round(trial.cost)}});
  }
  return list;
}

// What every profile begins with.
OrderedJson Beginning(const Profile& profile) {
  OrderedJson json;
  json["format"] = kProfileFormat;
  json["version"] = kProfileVersion;
  json["model"] = {{"fingerprint", profile.fingerprint}, {"family", profile.family}, {"layers", profile.layers}};
  return json;
}

bool OnOneLine(const OrderedJson& value) {
  if (!value.is_structured() || value.empty()) return true;
  if (value.is_object()) return false;
  return !value.front().is_structured();
}

// Objects and lists of lists over several lines, all else on one: for people.
void Print(const OrderedJson& value, const std::string& indent, std::string* text) {
  if (OnOneLine(value)) {
    *text += value.dump();
    return;
  }
  const std::string inner = indent + "  ";
  *text += value.is_object() ? "{" : "[";
  const char* separator = "\n";
  for (const auto& [key, element] : value.items()) {
    *text += separator + inner;
    separator = ",\n";
    if (value.is_object()) {
      *text += OrderedJson(key).dump() + ": ";
      Print(element, inner, text);
    } else {
      *text += element.dump();  // an element of a list: one line
    }
  }
  *text += "\n" + indent + (value.is_object() ? "}" : "]");
}

std::string Written(const OrderedJson& profile) {
  std::string text;
  Print(profile, "", &text);
  return text + "\n";
}

// ---- the picture ----

constexpr double kPlot = 320;   // side of a map, height of the curves
constexpr double kMargin = 56;  // around each
constexpr double kHead = 34;    // room for a title
constexpr const char* kColours[] = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b"};

std::string Format(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string Text(double x, double y, const std::string& what, const char* extra = "") {
  return StrCat("<text x=\"", x, "\" y=\"", y, "\" ", extra, ">", what, "</text>\n");
}

// White at 0 to dark blue at 1; red below 0.
std::string Colour(double value) {
  const double v = std::clamp(value, -1.0, 1.0);
  const auto mix = [&](double full) { return static_cast<int>(std::lround(255 + (full - 255) * std::abs(v))); };
  return v >= 0 ? StrCat("rgb(", mix(8), ",", mix(48), ",", mix(107)) + ")"
                : StrCat("rgb(", mix(165), ",", mix(15), ",", mix(21)) + ")";
}

std::string HeatMap(double left, double top, const std::string& title, const std::vector<std::vector<double>>& map) {
  const auto layers = static_cast<double>(map.size());
  const double side = kPlot / layers;
  std::string svg = Text(left, top - 12, title, "font-weight=\"bold\"");
  for (size_t s = 0; s < map.size(); ++s) {
    for (size_t l = s; l < map.size(); ++l) {
      const double x = left + side * static_cast<double>(l), y = top + side * static_cast<double>(s);
      svg += StrCat("<rect x=\"", Format("%.2f", x), "\" y=\"", Format("%.2f", y), "\" width=\"", Format("%.2f", side),
                    "\" height=\"", Format("%.2f", side), "\" fill=\"", Colour(map[s][l]), "\"><title>source ", s,
                    ", layer ", l, ": ", Format("%.3f", map[s][l]), "</title></rect>\n");
      if (map.size() > 12) continue;
      svg += Text(x + side / 2, y + side / 2 + 4, Format("%.2f", map[s][l]),
                  std::abs(map[s][l]) > 0.5 ? "text-anchor=\"middle\" font-size=\"10\" fill=\"white\""
                                            : "text-anchor=\"middle\" font-size=\"10\"");
    }
  }
  const size_t step = std::max<size_t>(1, map.size() / 8);
  for (size_t l = 0; l < map.size(); l += step) {
    const double middle = side * (static_cast<double>(l) + 0.5);
    svg += Text(left + middle, top + kPlot + 15, StrCat(l), "text-anchor=\"middle\"");
    svg += Text(left - 8, top + middle + 4, StrCat(l), "text-anchor=\"end\"");
  }
  svg += Text(left + kPlot / 2, top + kPlot + 32, "layer", "text-anchor=\"middle\"");
  return svg + Text(left - 8, top - 12, "source", "text-anchor=\"end\"");
}

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;  // layer, 0..1
};

std::string Curves(double left, double top, double width, const std::string& title, const std::vector<Curve>& curves,
                   double layers) {
  std::string svg = Text(left, top - 12, title, "font-weight=\"bold\"");
  const auto x = [&](double layer) { return left + width * layer / std::max(1.0, layers - 1); };
  const auto y = [&](double value) { return top + kPlot * (1 - value); };
  for (const double tick : {0.0, 0.25, 0.5, 0.75, 1.0}) {
    svg += StrCat("<line x1=\"", left, "\" y1=\"", y(tick), "\" x2=\"", left + width, "\" y2=\"", y(tick),
                  "\" stroke=\"#ddd\"/>\n");
    svg += Text(left - 8, y(tick) + 4, Format("%.2f", tick), "text-anchor=\"end\"");
  }
  const double step = std::max(1.0, std::floor(layers / 8));
  for (double layer = 0; layer < layers; layer += step) {
    svg += Text(x(layer), top + kPlot + 15, Format("%.0f", layer), "text-anchor=\"middle\"");
  }
  svg += Text(left + width / 2, top + kPlot + 32, "layer", "text-anchor=\"middle\"");
  for (size_t i = 0; i < curves.size(); ++i) {
    const char* const colour = kColours[i % std::size(kColours)];
    std::string points;
    for (const auto& [layer, value] : curves[i].points) {
      points += Format("%.1f", x(layer)) + "," + Format("%.1f", y(value)) + " ";
    }
    svg += StrCat("<polyline points=\"", points, "\" fill=\"none\" stroke=\"", colour, "\" stroke-width=\"2\"/>\n");
    const double line = top + kPlot + 54 + 18 * static_cast<double>(i);
    svg += StrCat("<rect x=\"", left, "\" y=\"", line - 9, "\" width=\"18\" height=\"4\" fill=\"", colour, "\"/>\n");
    svg += Text(left + 26, line - 3, curves[i].name);
  }
  return svg;
}

}  // namespace

std::string ProfileJson(const Calibration& calibration) {
  const Profile& profile = calibration.profile;
  OrderedJson json = Beginning(profile);
  json["settings"] = {{"policy", CalibratedPolicy().name},
                      {"budget", profile.budget},
                      {"sources", profile.sources},
                      {"options", profile.options},
                      {"drop_layers", Drops(profile.drop_layers)},
                      {"sparse_from", profile.sparse_from}};
  OrderedJson mass;
  for (size_t p = 0; p < calibration.patterns.size(); ++p) mass[calibration.patterns[p]] = Rounded(calibration.mass[p]);
  json["measured"] = {{"samples", calibration.samples},
                      {"prompt_tokens_mean", Round(calibration.prompt_tokens)},
                      {"visual_tokens_mean", Round(calibration.visual_tokens)},
                      {"answer_tokens", calibration.answer_tokens},
                      {"loss", Round(calibration.chosen.loss)},
                      {"cost", Round(calibration.chosen.cost)},
                      {"spearman_own", Map(calibration.own)},
                      {"spearman_read", Map(calibration.read)},
                      {"kept_mass", Rows(calibration.kept)},
                      {"sparse_mass", mass},
                      {"drop_losses", Trials(calibration.drop_losses)},
                      {"trials", Trials(calibration.trials)}};
  if (!calibration.evidence.empty()) json["measured"]["evidence_kept"] = Rounded(calibration.evidence);
  return Written(json);
}

std::string ProfileJson(const SplitCalibration& calibration) {
  const Profile& profile = calibration.profile;
  OrderedJson json = Beginning(profile);
  json["settings"] = {{"policy", CalibratedPolicy().name},
                      {"budget", profile.budget},
                      {"budget_of", "bytes"},
                      {"keys", profile.keys},
                      {"values", profile.values}};
  OrderedJson trials = OrderedJson::array();
  for (const SplitTrial& trial : calibration.trials) {
    trials.push_back({{"budget", trial.budget},
                      {"keys", trial.bits.keys},
                      {"values", trial.bits.values},
                      {"tokens_share", Round(trial.tokens_share)},
                      {"bytes_share", Round(trial.bytes_share)},
                      {"loss", Round(trial.loss)},
                      {"log_loss", Round(trial.log_loss)}});
  }
  json["measured"] = {{"samples", calibration.samples},
                      {"answer_tokens", calibration.answer_tokens},
                      {"loss", Round(calibration.chosen.loss)},
                      {"trials", trials}};
  return Written(json);
}

std::string ProfileJson(const PrefixCalibration& calibration) {
  const Profile& profile = calibration.profile;
  OrderedJson json = Beginning(profile);
  OrderedJson shares = OrderedJson::array();
  for (const LayerShares& one : profile.shares) shares.push_back({{"budget", one.budget}, {"layers", one.layers}});
  json["settings"] = {{"policy", kPrefixPolicy}, {"shares", shares}};
  json["measured"] = {{"samples", calibration.samples},
                      {"part_tokens_mean", Round(calibration.part_tokens)},
                      {"share_deviations", Rows(calibration.deviations)}};
  return Written(json);
}

std::string CalibrationSvg(const Calibration& calibration) {
  const auto layers = static_cast<double>(calibration.profile.layers);
  std::vector<Curve> mass, loss(1);
  for (size_t p = 0; p < calibration.patterns.size(); ++p) {
    Curve& curve = mass.emplace_back();
    curve.name = calibration.patterns[p];
    for (size_t l = 0; l < calibration.mass[p].size(); ++l) {
      curve.points.emplace_back(static_cast<double>(l), calibration.mass[p][l]);
    }
  }
  loss[0].name = "agreement lost when dropping to the budget here";
  for (const CalibrationTrial& trial : calibration.drop_losses) {
    loss[0].points.emplace_back(static_cast<double>(trial.drop_layers[0].layer), trial.loss);
  }
  if (!calibration.evidence.empty()) {
    Curve& curve = loss.emplace_back();
    curve.name = "evidence tokens kept under the profile";
    for (size_t l = 0; l < calibration.evidence.size(); ++l) {
      curve.points.emplace_back(static_cast<double>(l), calibration.evidence[l]);
    }
  }
  const double column = kPlot + 2 * kMargin, second = kHead + kPlot + 2 * kMargin + kHead;
  const double width = 2 * column, height = second + kPlot + kMargin + 18 * 6;
  std::string svg = StrCat("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", width, "\" height=\"", height,
                           "\" viewBox=\"0 0 ", width, " ", height,
                           "\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" "
                           "fill=\"white\"/>\n");
  svg += HeatMap(kMargin, kHead + kMargin / 2, "rank correlation with the layer's own importance", calibration.own);
  svg += HeatMap(column + kMargin, kHead + kMargin / 2, "... with what the answer reads", calibration.read);
  svg += Curves(kMargin, second, kPlot, "attention mass kept by the sparse patterns", mass, layers);
  svg += Curves(column + kMargin, second, kPlot, "dropping", loss, layers);
  return svg + "</svg>\n";
}

}  // namespace purekv
