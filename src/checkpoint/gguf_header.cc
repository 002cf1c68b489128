#include "checkpoint/gguf_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace purekv {
namespace {

constexpr uint64_t kMaxHeader = uint64_t{256} << 20;  // a vocabulary of 262144 tokens takes 20 MB
constexpr uint64_t kMaxEntries = 100'000;             // tensors, and pairs of metadata
constexpr uint64_t kMaxName = 65'535;                 // the format's limit for keys
constexpr uint32_t kMaxRank = 4;                      // ggml's
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 30;

// Reads numbers and strings one behind the other; never behind the end.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& path)
      : bytes_(bytes.first(std::min<size_t>(bytes.size(), kMaxHeader))), file_size_(bytes.size()), path_(path) {}

  size_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }
  std::span<const std::byte> Since(size_t begin) const { return bytes_.subspan(begin, at_ - begin); }

  // `where` and `what` are for messages: "metadata general.name", "value".
  template <class T>
  T Number(std::string_view where, const char* what) {
    if (left() < sizeof(T)) FailEnd(where, what);
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  std::string_view String(std::string_view where, const char* what) {
    const auto length = Number<uint64_t>(where, what);
    if (length > left()) FailEnd(where, what);
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data() + at_), static_cast<size_t>(length));
    at_ += static_cast<size_t>(length);
    return text;
  }

  // A key or a tensor's name.
  std::string_view Name(std::string_view where) {
    const std::string_view name = String(where, "name");
    if (name.empty() || name.size() > kMaxName) {
      Fail(path_, ": ", where, ": a name of ", name.size(), " bytes; 1 to ", kMaxName, " are expected");
    }
    return name;
  }

  void Skip(uint64_t count, std::string_view where, const char* what) {
    if (count > left()) FailEnd(where, what);
    at_ += static_cast<size_t>(count);
  }

  [[noreturn]] void FailEnd(std::string_view where, const char* what) const {
    if (file_size_ > kMaxHeader) {
      Fail(path_, ": ", where, ": the ", what, " ends behind byte ", kMaxHeader,
           "; metadata and the list of tensors may not be longer");
    }
    Fail(path_, ": ", where, ": the ", what, " ends behind the file's ", file_size_,
         " bytes; it is truncated or no GGUF file");
  }

 private:
  std::span<const std::byte> bytes_;
  size_t file_size_;
  const std::string& path_;
  size_t at_ = 0;
};

// Bytes of a value whose size its type says; 0: a string, an array, or no type at all.
uint64_t SizeOf(GgufValueType type) {
  switch (type) {
    case GgufValueType::kU8:
    case GgufValueType::kI8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kU16:
    case GgufValueType::kI16:
      return 2;
    case GgufValueType::kU32:
    case GgufValueType::kI32:
    case GgufValueType::kF32:
      return 4;
    case GgufValueType::kU64:
    case GgufValueType::kI64:
    case GgufValueType::kF64:
      return 8;
    case GgufValueType::kString:
    case GgufValueType::kArray:
      return 0;
  }
  return 0;
}

// As it stands in a message: long names are cut.
std::string Where(const char* kind, std::string_view name) {
  return StrCat(kind, " ", name.substr(0, 200));
}

void CheckBools(const GgufValue& value, const std::string& path, std::string_view where) {
  for (const std::byte byte : value.bytes) {
    if (std::to_integer<unsigned>(byte) > 1) {
      Fail(path, ": ", where, ": a bool is ", std::to_integer<unsigned>(byte), "; 0 or 1 is expected");
    }
  }
}

GgufValue ParsePair(Reader* reader, uint64_t number, const std::string& path) {
  GgufValue value;
  value.key = reader->Name(StrCat("metadata pair ", number));
  const std::string where = Where("metadata", value.key);
  auto type = reader->Number<uint32_t>(where, "type");
  if (type == static_cast<uint32_t>(GgufValueType::kArray)) {
    value.array = true;
    type = reader->Number<uint32_t>(where, "type");
    value.count = reader->Number<uint64_t>(where, "length");
    if (type == static_cast<uint32_t>(GgufValueType::kArray))
      Fail(path, ": ", where, ": arrays of arrays are not read");
  }
  if (type > static_cast<uint32_t>(GgufValueType::kF64)) {
    Fail(path, ": ", where, ": has a value of type ", type, "; types 0 to 12 are known");
  }
  value.type = static_cast<GgufValueType>(type);

  const size_t begin = reader->at();
  const uint64_t size = SizeOf(value.type);
  const char* what = value.array ? "array" : "value";
  // A string takes at least its length.
  if (value.count > reader->left() / (size == 0 ? sizeof(uint64_t) : size)) reader->FailEnd(where, what);
  if (size == 0) {
    for (uint64_t i = 0; i < value.count; ++i) reader->String(where, what);
  } else {
    reader->Skip(value.count * size, where, what);
  }
  value.bytes = reader->Since(begin);
  if (value.type == GgufValueType::kBool) CheckBools(value, path, where);
  return value;
}

// a * b, or an Error.
uint64_t Multiply(uint64_t a, uint64_t b, const std::string& path, std::string_view where) {
  if (a != 0 && b > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / a) {
    Fail(path, ": ", where, ": its dimensions multiply to more than 63 bits can count");
  }
  return a * b;
}

// The offset is still that of the data section.
GgufTensor ParseTensor(Reader* reader, uint64_t number, const std::string& path) {
  GgufTensor tensor;
  tensor.name = reader->Name(StrCat("tensor number ", number));
  const std::string where = Where("tensor", tensor.name);
  const auto rank = reader->Number<uint32_t>(where, "number of dimensions");
  if (rank > kMaxRank) Fail(path, ": ", where, ": has ", rank, " dimensions; at most ", kMaxRank, " are expected");
  uint64_t elements = 1;
  for (uint32_t i = 0; i < rank; ++i) {
    const auto dimension = reader->Number<uint64_t>(where, "shape");
    if (dimension == 0) Fail(path, ": ", where, ": dimension ", i, " is 0");
    elements = Multiply(elements, dimension, path, where);
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(dimension));  // the file has the innermost first
  }
  tensor.type = static_cast<GgmlType>(reader->Number<uint32_t>(where, "type"));
  tensor.offset = reader->Number<uint64_t>(where, "offset");

  const auto block = static_cast<uint64_t>(GgmlBlockElements(tensor.type));
  if (block == 0) return tensor;
  const uint64_t row = rank == 0 ? 1 : static_cast<uint64_t>(tensor.shape.back());
  if (row % block != 0) {
    Fail(path, ": ", where, ": has rows of ", row, " numbers; ", GgmlTypeName(tensor.type), " has blocks of ", block);
  }
  tensor.bytes = Multiply(elements / block, static_cast<uint64_t>(GgmlBlockBytes(tensor.type)), path, where);
  return tensor;
}

void CheckVersion(uint32_t version, const std::string& path) {
  if (version == 2 || version == 3) return;
  // A file of the other byte order has its small version in the high byte.
  if (const uint32_t swapped = __builtin_bswap32(version); swapped > 0 && swapped < 0x10000) {
    Fail(path, ": a big-endian GGUF file; little-endian ones are read");
  }
  Fail(path, ": GGUF version ", version, " is not read; 2 and 3 are");
}

uint64_t Alignment(const GgufMetadata& metadata) {
  const uint64_t alignment = metadata.FindUnsigned("general.alignment").value_or(kDefaultAlignment);
  if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
    Fail(metadata.path(), ": metadata general.alignment is ", alignment, "; a power of two up to ", kMaxAlignment,
         " is expected");
  }
  return alignment;
}

void CheckUnique(const std::vector<GgufTensor>& tensors, const std::string& path) {
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const GgufTensor& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) Fail(path, ": ", Where("tensor", *twice), ": is there twice");
}

// Makes offsets count from the file's beginning. `data`: where the data section begins.
void PlaceTensors(std::vector<GgufTensor>* tensors, uint64_t data, uint64_t alignment, uint64_t file_size,
                  const std::string& path) {
  for (GgufTensor& tensor : *tensors) {
    const auto where = [&tensor] { return Where("tensor", tensor.name); };
    if (tensor.offset % alignment != 0) {
      Fail(path, ": ", where(), ": begins at byte ", tensor.offset, " of the data, which is no multiple of ",
           alignment);
    }
    if (data > file_size || tensor.offset > file_size - data || tensor.bytes > file_size - data - tensor.offset) {
      Fail(path, ": ", where(), ": ", tensor.bytes, " bytes at byte ", tensor.offset, " of the data, which has ",
           data > file_size ? 0 : file_size - data, "; the file is truncated");
    }
    tensor.offset += data;
  }
  std::vector<const GgufTensor*> order;
  order.reserve(tensors->size());
  for (const GgufTensor& tensor : *tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) {
    return std::pair(a->offset, a->bytes) < std::pair(b->offset, b->bytes);
  });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset) {
      Fail(path, ": ", Where("tensor", order[i]->name), ": overlaps ", Where("tensor", order[i - 1]->name));
    }
  }
}

}  // namespace

GgufHeader ParseGgufHeader(std::span<const std::byte> bytes, const std::string& path) {
  Reader reader(bytes, path);
  const std::string_view start(reinterpret_cast<const char*>(bytes.data()), std::min<size_t>(bytes.size(), 4));
  if (start != "GGUF") Fail(path, ": does not begin with \"GGUF\"; it is no GGUF file");
  reader.Skip(4, "beginning", "magic");

  GgufHeader header;
  header.version = reader.Number<uint32_t>("beginning", "version");
  CheckVersion(header.version, path);
  const auto tensors = reader.Number<uint64_t>("beginning", "number of tensors");
  const auto pairs = reader.Number<uint64_t>("beginning", "number of metadata pairs");
  if (tensors > kMaxEntries) Fail(path, ": ", tensors, " tensors; at most ", kMaxEntries, " are read");
  if (pairs > kMaxEntries) Fail(path, ": ", pairs, " pairs of metadata; at most ", kMaxEntries, " are read");

  std::vector<GgufValue> values;
  for (uint64_t i = 0; i < pairs; ++i) values.push_back(ParsePair(&reader, i, path));
  header.metadata = GgufMetadata(path, std::move(values));
  if (const uint64_t files = header.metadata.FindUnsigned("split.count").value_or(1); files > 1) {
    Fail(path, ": metadata split.count is ", files,
         ": one of several files; join them first (llama-gguf-split --merge)");
  }
  const uint64_t alignment = Alignment(header.metadata);

  for (uint64_t i = 0; i < tensors; ++i) header.tensors.push_back(ParseTensor(&reader, i, path));
  CheckUnique(header.tensors, path);
  const uint64_t data = (reader.at() + alignment - 1) / alignment * alignment;
  PlaceTensors(&header.tensors, data, alignment, bytes.size(), path);
  return header;
}

}  // namespace purekv
