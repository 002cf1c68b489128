#include "eval/svg_chart.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

#include "base/error.h"
#include "base/utf8.h"

namespace purekv {
namespace {

constexpr double kWidth = 640, kHeight = 380;
constexpr double kLeft = 58, kRight = 14, kTop = 34, kPlotHeight = 236;
// Told apart by eyes that mix up red and green too (Okabe and Ito 2008), no black.
constexpr std::array<const char*, 7> kColours = {"#0072b2", "#e69f00", "#009e73", "#cc79a7",
                                                 "#d55e00", "#56b4e9", "#8c6bb1"};

std::string Num(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

std::string Tick(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

std::string Marker(size_t line, double x, double y) {
  const std::string colour = kColours[line % kColours.size()];
  const auto polygon = [&](const std::vector<std::array<double, 2>>& points) {
    std::string text = "<polygon fill=\"" + colour + "\" points=\"";
    for (const auto& [dx, dy] : points) text += Num(x + dx) + "," + Num(y + dy) + " ";
    return text + "\"/>";
  };
  switch (line % 4) {
    case 0:
      return "<circle fill=\"" + colour + "\" cx=\"" + Num(x) + "\" cy=\"" + Num(y) + "\" r=\"4\"/>";
    case 1:
      return polygon({{-4, -4}, {4, -4}, {4, 4}, {-4, 4}});
    case 2:
      return polygon({{0, -5}, {5, 4}, {-5, 4}});
    default:
      return polygon({{0, -5.5}, {5.5, 0}, {0, 5.5}, {-5.5, 0}});
  }
}

// Round steps that cut [low, high] into 4 to 10.
std::vector<double> LinearTicks(double low, double high) {
  const double raw = (high - low) / 5;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  double step = power;
  for (const double factor : {1.0, 2.0, 5.0, 10.0}) {
    step = power * factor;
    if (step >= raw) break;
  }
  std::vector<double> ticks;
  for (double tick = std::ceil(low / step - 1e-9) * step; tick <= high + step * 1e-6; tick += step) {
    ticks.push_back(std::abs(tick) < step * 1e-9 ? 0 : tick);
  }
  return ticks;
}

std::vector<double> LogTicks(double low, double high) {
  std::vector<double> ticks;
  for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = power * factor;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push_back(tick);
    }
  }
  return ticks;
}

// Where values lie on the paper.
struct Frame {
  double x_low, x_high, y_low, y_high;
  bool log_x;
  double X(double x) const {
    const double at =
        log_x ? (std::log(x) - std::log(x_low)) / (std::log(x_high) - std::log(x_low)) : (x - x_low) / (x_high - x_low);
    return kLeft + at * (kWidth - kLeft - kRight);
  }
  double Y(double y) const { return kTop + (1 - (y - y_low) / (y_high - y_low)) * kPlotHeight; }
};

Frame FrameOf(const Chart& chart) {
  Frame frame{std::numeric_limits<double>::max(), 0, chart.y_low, chart.y_high, chart.log_x};
  for (const ChartLine& line : chart.lines) {
    for (const ChartPoint& point : line.points) {
      frame.x_low = std::min(frame.x_low, point.x);
      frame.x_high = std::max(frame.x_high, point.x);
      frame.y_low = std::min(frame.y_low, point.low);
      frame.y_high = std::max(frame.y_high, point.high);
    }
  }
  if (frame.x_low > frame.x_high) frame.x_low = frame.x_high = 1;  // no points
  if (chart.log_x) {
    frame.x_low = std::max(frame.x_low, 1e-12) / 1.1;
    frame.x_high = std::max(frame.x_high, 1e-12) * 1.1;
  } else {
    const double room = std::max((frame.x_high - frame.x_low) * 0.04, 1e-9 + std::abs(frame.x_high) * 1e-3);
    frame.x_low -= room;
    frame.x_high += room;
  }
  if (frame.y_high <= frame.y_low) frame.y_high = frame.y_low + 1;
  return frame;
}

std::string Text(double x, double y, const char* anchor, const std::string& words, const char* more = "") {
  return "<text x=\"" + Num(x) + "\" y=\"" + Num(y) + "\" text-anchor=\"" + anchor + "\"" + more + ">" +
         EscapeHtml(words) + "</text>";
}

std::string Axes(const Chart& chart, const Frame& frame) {
  std::string svg;
  const double right = kWidth - kRight;
  const double bottom = kTop + kPlotHeight;
  for (const double tick : LinearTicks(frame.y_low, frame.y_high)) {
    const std::string y = Num(frame.Y(tick));
    svg +=
        "<line class=\"grid\" x1=\"" + Num(kLeft) + "\" x2=\"" + Num(right) + "\" y1=\"" + y + "\" y2=\"" + y + "\"/>";
    svg += Text(kLeft - 7, frame.Y(tick) + 4, "end", Tick(tick));
  }
  for (const double tick : chart.log_x ? LogTicks(frame.x_low, frame.x_high) : LinearTicks(frame.x_low, frame.x_high)) {
    const std::string x = Num(frame.X(tick));
    svg +=
        "<line class=\"grid\" x1=\"" + x + "\" x2=\"" + x + "\" y1=\"" + Num(kTop) + "\" y2=\"" + Num(bottom) + "\"/>";
    svg += Text(frame.X(tick), bottom + 17, "middle", Tick(tick));
  }
  svg += Text((kLeft + right) / 2, bottom + 36, "middle", chart.x_label);
  svg += Text(16, kTop + kPlotHeight / 2, "middle", chart.y_label,
              (" transform=\"rotate(-90 16 " + Num(kTop + kPlotHeight / 2) + ")\"").c_str());
  svg += Text(kLeft, 20, "start", chart.title, " class=\"title\"");
  if (chart.reference >= 0) {
    const std::string y = Num(frame.Y(chart.reference));
    svg += "<line class=\"reference\" x1=\"" + Num(kLeft) + "\" x2=\"" + Num(right) + "\" y1=\"" + y + "\" y2=\"" + y +
           "\"><title>" + EscapeHtml(chart.reference_name + " " + Tick(chart.reference)) + "</title></line>";
  }
  return svg;
}

std::string Line(const ChartLine& line, size_t index, const Frame& frame) {
  const std::string colour = kColours[index % kColours.size()];
  std::string path;
  std::string marks;
  for (const ChartPoint& point : line.points) {
    const double x = frame.X(point.x);
    path += (path.empty() ? "M" : "L") + Num(x) + " " + Num(frame.Y(point.y));
    if (point.high > point.low) {
      // Lines beside one another: intervals at the same x would cover each other.
      const std::string at = Num(x + (static_cast<double>(index % 7) - 3) * 1.5);
      marks += "<line stroke=\"" + colour + "\" stroke-opacity=\"0.6\" x1=\"" + at + "\" x2=\"" + at + "\" y1=\"" +
               Num(frame.Y(point.low)) + "\" y2=\"" + Num(frame.Y(point.high)) + "\"/>";
    }
    std::string says = line.name + ": " + Tick(point.y);
    if (point.high > point.low) says += " [" + Tick(point.low) + ", " + Tick(point.high) + "]";
    marks += "<g>" + Marker(index, x, frame.Y(point.y)) + "<title>" + EscapeHtml(says + " at " + Tick(point.x)) +
             "</title></g>";
  }
  return "<path fill=\"none\" stroke=\"" + colour + "\" stroke-width=\"2\" d=\"" + path + "\"/>" + marks;
}

}  // namespace

std::string EscapeHtml(const std::string& text) {
  std::string whole;
  AppendLossyUtf8(text, true, &whole);
  std::string safe;
  for (const char c : whole) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        safe += static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' ? ' ' : c;
    }
  }
  return safe;
}

std::string ChartSvg(const Chart& chart, bool standalone) {
  const Frame frame = FrameOf(chart);
  constexpr double kColumn = 190, kRow = 18;
  const auto columns = static_cast<size_t>((kWidth - kLeft) / kColumn);
  const size_t entries = chart.lines.size() + (chart.reference >= 0 ? 1 : 0);
  const size_t rows = (entries + columns - 1) / columns;
  const double height = std::max(kHeight, kTop + kPlotHeight + 58 + static_cast<double>(rows) * kRow);
  std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + Num(kWidth) + " " + Num(height) +
                    "\" role=\"img\" aria-label=\"" + EscapeHtml(chart.title) + "\">";
  if (standalone) {
    svg +=
        "<style>svg{--ink:#1b1f24;--faint:#d8dde3;--paper:#fff;font:13px system-ui,sans-serif}"
        "@media(prefers-color-scheme:dark){svg{--ink:#e6e9ee;--faint:#3a414b;--paper:#14171b}}"
        "text{fill:var(--ink)}.title{font-weight:600;font-size:15px}.grid{stroke:var(--faint)}"
        ".reference{stroke:var(--ink);stroke-dasharray:5 4}</style>"
        "<rect width=\"100%\" height=\"100%\" style=\"fill:var(--paper)\"/>";
  }
  svg += Axes(chart, frame);
  for (size_t i = 0; i < chart.lines.size(); ++i) svg += Line(chart.lines[i], i, frame);
  for (size_t i = 0; i < entries; ++i) {
    const double x = kLeft + static_cast<double>(i % columns) * kColumn + 8;
    const double y = kTop + kPlotHeight + 58 + static_cast<double>(i / columns) * kRow;
    if (i < chart.lines.size()) {
      svg += Marker(i, x, y - 4) + Text(x + 12, y, "start", chart.lines[i].name);
    } else {
      svg += "<line class=\"reference\" x1=\"" + Num(x - 8) + "\" x2=\"" + Num(x + 8) + "\" y1=\"" + Num(y - 4) +
             "\" y2=\"" + Num(y - 4) + "\"/>" + Text(x + 12, y, "start", chart.reference_name);
    }
  }
  return svg + "</svg>\n";
}

}  // namespace purekv
