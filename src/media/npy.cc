#include "media/npy.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/file.h"

namespace purekv {
namespace {

static_assert(std::endian::native == std::endian::little, "arrays are written as they lie in memory");

constexpr char kMagic[] = "\x93NUMPY";
constexpr size_t kMagicBytes = 6;
constexpr uint64_t kMaxHeaderBytes = 65535;  // of a dict with three keys; versions 2.0 and 3.0 could claim 4 GiB

// Reads the Python dict literal of the header: {'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }.
// Only what numpy.lib.format may write: three keys in any order, each once.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& path) : text_(text), path_(path) {}

  void Parse(NpyHeader* header) {
    bool have_descr = false;
    bool have_order = false;
    bool have_shape = false;
    Expect('{');
    while (!Take('}')) {
      const std::string key = String();
      Expect(':');
      if (key == "descr" && !have_descr) {
        header->descr = String();
        have_descr = true;
      } else if (key == "fortran_order" && !have_order) {
        header->fortran_order = Bool();
        have_order = true;
      } else if (key == "shape" && !have_shape) {
        header->shape = Shape();
        have_shape = true;
      } else {
        Bad(StrCat("unexpected or repeated key '", key, "'"));
      }
      if (!Take(',')) {
        Expect('}');
        break;
      }
    }
    SkipSpace();
    if (at_ != text_.size()) Bad("text after the closing brace");
    if (!have_descr || !have_order || !have_shape) Bad("the keys descr, fortran_order and shape are all required");
  }

 private:
  [[noreturn]] void Bad(const std::string& what) const { Fail(path_, ": malformed .npy header: ", what); }

  void SkipSpace() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  bool Take(char c) {
    SkipSpace();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void Expect(char c) {
    if (!Take(c)) Bad(StrCat("expected '", c, "' at byte ", at_, " of the header"));
  }
  std::string String() {
    SkipSpace();
    if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"')) {
      Bad(StrCat("expected a string at byte ", at_, " of the header (structured arrays are not supported)"));
    }
    const char quote = text_[at_++];
    const size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) Bad("a string does not end");
    const std::string_view value = text_.substr(at_, end - at_);
    if (value.find('\\') != std::string_view::npos) Bad("escapes are not expected in its strings");
    at_ = end + 1;
    return std::string(value);
  }
  bool Bool() {
    SkipSpace();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return value;
      }
    }
    Bad("fortran_order must be True or False");
  }
  std::vector<int64_t> Shape() {
    std::vector<int64_t> shape;
    Expect('(');
    while (!Take(')')) {
      if (shape.size() == 32) Bad("more than 32 dimensions");
      shape.push_back(Integer());
      if (!Take(',')) {
        Expect(')');
        // (5) is a number in brackets, not a tuple of one; NumPy refuses it too.
        if (shape.size() == 1) Bad("a shape of one dimension is written (n,)");
        break;
      }
    }
    return shape;
  }
  int64_t Integer() {
    SkipSpace();
    const size_t begin = at_;
    int64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      const int64_t digit = text_[at_] - '0';
      if (value > (INT64_MAX - digit) / 10) Bad("a dimension does not fit 64 bits");
      value = value * 10 + digit;
      ++at_;
    }
    if (at_ == begin) Bad(StrCat("expected a dimension at byte ", at_, " of the header"));
    if (text_[begin] == '0' && at_ - begin > 1) Bad("a dimension with a leading zero");
    if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // written by Python 2
    return value;
  }

  std::string_view text_;
  const std::string& path_;
  size_t at_ = 0;
};

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (const int64_t dim : shape) text += StrCat(text.size() > 1 ? " " : "", dim, ",");
  if (shape.size() > 1) text.pop_back();
  return text + ")";
}

template <class T>
void WriteArray(const std::string& path, const char* descr, std::span<const T> data,
                const std::vector<int64_t>& shape) {
  uint64_t count = 1;
  for (const int64_t dim : shape) {
    PUREKV_CHECK(dim >= 0, dim);
    count *= static_cast<uint64_t>(dim);
  }
  PUREKV_CHECK(count == data.size(), ShapeText(shape), " of ", data.size(), " values");
  std::string dict = StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': ", ShapeText(shape), ", }");
  constexpr size_t kPrefix = kMagicBytes + 4;           // magic, version, length
  dict.append(63 - (kPrefix + dict.size()) % 64, ' ');  // data at a multiple of 64
  dict += '\n';
  std::string file;
  file.reserve(kPrefix + dict.size() + data.size_bytes());
  file.append(kMagic, kMagicBytes);
  file += '\x01';
  file += '\x00';
  file += static_cast<char>(dict.size() & 0xff);
  file += static_cast<char>(dict.size() >> 8);
  file += dict;
  file.append(reinterpret_cast<const char*>(data.data()), data.size_bytes());
  WriteFile(path, file);
}

}  // namespace

NpyHeader ParseNpyHeader(std::span<const std::byte> bytes, const std::string& path) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.size() < kMagicBytes + 4 || text.substr(0, kMagicBytes) != std::string_view(kMagic, kMagicBytes)) {
    Fail(path, ": not a .npy file (NumPy array)");
  }
  const auto byte = [&](size_t i) { return static_cast<uint64_t>(static_cast<unsigned char>(text[i])); };
  const uint64_t major = byte(6);
  const uint64_t minor = byte(7);
  if (major < 1 || major > 3 || minor != 0) {
    Fail(path, ": .npy format version ", major, ".", minor, "; expected 1.0, 2.0 or 3.0");
  }
  const size_t prefix = kMagicBytes + (major == 1 ? 4 : 6);
  if (text.size() < prefix) Fail(path, ": truncated .npy header");
  uint64_t length = byte(8) | byte(9) << 8;
  if (major > 1) length |= byte(10) << 16 | byte(11) << 24;
  if (length > kMaxHeaderBytes)
    Fail(path, ": .npy header of ", length, " bytes; at most ", kMaxHeaderBytes, " are expected");
  if (text.size() - prefix < length) Fail(path, ": truncated .npy header");
  NpyHeader header;
  HeaderParser(text.substr(prefix, static_cast<size_t>(length)), path).Parse(&header);
  header.data_offset = prefix + length;
  return header;
}

NpyFrames::NpyFrames(const std::string& path) : file_(path) {
  const NpyHeader header = ParseNpyHeader(file_.bytes(), path);
  const std::string expected = "expected uint8 [T, H, W, 3] in C order";
  if (header.descr != "|u1" && header.descr != "u1" && header.descr != "<u1" && header.descr != ">u1") {
    Fail(path, ": elements of type '", header.descr, "'; ", expected);
  }
  if (header.fortran_order) Fail(path, ": in Fortran order; ", expected);
  const std::vector<int64_t>& shape = header.shape;
  if (shape.size() != 4 || shape[3] != 3) Fail(path, ": shape ", ShapeText(shape), "; ", expected);
  const uint64_t available = file_.bytes().size() - header.data_offset;
  uint64_t needed = 3;
  if (std::any_of(shape.begin(), shape.end(), [](int64_t dim) { return dim < 1; })) {
    Fail(path, ": shape ", ShapeText(shape), " holds no pixels; ", expected);
  }
  for (size_t i = 0; i < 3; ++i) {
    // The file's own size bounds every product, so that none can overflow.
    if (static_cast<uint64_t>(shape[i]) > available / needed) {
      Fail(path, ": shape ", ShapeText(shape), " needs more than the ", available, " bytes of data there are");
    }
    needed *= static_cast<uint64_t>(shape[i]);
  }
  if (needed != available) {
    Fail(path, ": shape ", ShapeText(shape), " needs ", needed, " bytes of data, there are ", available);
  }
  offset_ = header.data_offset;
  count_ = shape[0];
  size_ = {shape[1], shape[2]};
}

std::span<const uint8_t> NpyFrames::Frame(int64_t i) const {
  PUREKV_CHECK(i >= 0 && i < count_, i, " of ", count_);
  const auto bytes = static_cast<size_t>(size_.height * size_.width * 3);
  const auto* data = reinterpret_cast<const uint8_t*>(file_.bytes().data()) + offset_;
  return {data + static_cast<size_t>(i) * bytes, bytes};
}

void NpyFrames::Drop(int64_t i) const {
  const std::span<const uint8_t> frame = Frame(i);
  const auto end = reinterpret_cast<const std::byte*>(frame.data() + frame.size());
  file_.DropPages({file_.bytes().data(), end});
}

Frames ReadNpyFrames(const std::string& path) {
  const NpyFrames file(path);
  Frames frames{file.count(), file.size().height, file.size().width, {}};
  for (int64_t i = 0; i < file.count(); ++i) {
    const std::span<const uint8_t> frame = file.Frame(i);
    frames.rgb.insert(frames.rgb.end(), frame.begin(), frame.end());
  }
  return frames;
}

void WriteNpy(const std::string& path, std::span<const float> data, const std::vector<int64_t>& shape) {
  WriteArray(path, "<f4", data, shape);
}

void WriteNpy(const std::string& path, std::span<const int32_t> data, const std::vector<int64_t>& shape) {
  WriteArray(path, "<i4", data, shape);
}

}  // namespace purekv
