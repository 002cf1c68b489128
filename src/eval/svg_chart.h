// Line charts as plain SVG, readable on light and dark paper, with a marker of its own per line.
#pragma once

#include <string>
#include <vector>

namespace purekv {

struct ChartPoint {
  double x = 0, y = 0;
  double low = 0, high = 0;  // interval of y; equal: none is drawn
};

struct ChartLine {
  std::string name;
  std::vector<ChartPoint> points;  // joined in this order
};

struct Chart {
  std::string title, x_label, y_label;
  bool log_x = false;  // x above 0
  double y_low = 0, y_high = 1;
  std::vector<ChartLine> lines;
  double reference = -1;  // a dashed horizontal line with a name; negative: none
  std::string reference_name;
};

// `standalone`: a file of its own, with its colours; else for a page that defines --ink and --faint. Names are escaped.
std::string ChartSvg(const Chart& chart, bool standalone);

// Text for HTML and XML: & < > " ' escaped, control characters and broken UTF-8 replaced.
std::string EscapeHtml(const std::string& text);

}  // namespace purekv
