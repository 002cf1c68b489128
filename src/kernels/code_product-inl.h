// Products with codes for a set of vector instructions, written once. Included behind the pragma that turns the
// instructions on, by code_kernels_avx2.cc and code_kernels_vnni.cc; each brings a class V of its vectors:
//   F, I                      vectors of f32 and of i32, kLanes each
//   kVectors                  of them for a panel's 32 outputs
//   kRows, kRowsOfBytes       rows of x that share a code of 4 bits, of 8 bits; the registers are full then
//   Set, Add, ...             what the names say
//   FourBits<kRows>           exact sums of codes times X, for some inputs that share a scale
//   EightBits<kRows>          the same of 8-bit codes
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/code_kernels.h"

// Functions that take vectors must be inlined: without the instruction set their callers could not pass them.
#define PUREKV_INLINE inline __attribute__((always_inline))
// Loops over what lies in registers: while GCC 12 still has them as loops it keeps their arrays in memory.
#if defined(__clang__)
#define PUREKV_UNROLL _Pragma("unroll")
#else
#define PUREKV_UNROLL _Pragma("GCC unroll 16")
#endif

namespace purekv::code_kernels {
namespace {

constexpr int64_t kPanel = CodePanels::kPanel;
constexpr int64_t kBlock = CodePanels::kBlock;
constexpr int64_t kAhead = 4096;  // bytes asked for ahead: the hardware's own prefetch stops at each page

PUREKV_INLINE int32_t Quad(const int8_t* bytes) {
  int32_t quad;
  std::memcpy(&quad, bytes, 4);
  return quad;
}

// One block of a panel, and the rows of x from `row` on.
struct BlockArgs {
  int64_t inputs;  // 256, of the last block fewer
  const uint8_t *codes, *numbers, *bytes;
  Dtype dtype;  // of the numbers
  const IntegerRows* x;
  int64_t row, first;  // first input
  int64_t ahead;       // bytes behind a code that are asked for with it

  PUREKV_INLINE const uint8_t* NumberAt(int64_t i, int64_t output) const { return numbers + (i * kPanel + output) * 2; }
  PUREKV_INLINE const uint8_t* ByteAt(int64_t i, int64_t output) const { return bytes + i * kPanel + output; }
  // Of row `row + r` and input i of the block.
  PUREKV_INLINE float Factor(int64_t r, int64_t i) const {
    return x->scales(row + r)[(first + i) / IntegerRows::kGroup];
  }
  PUREKV_INLINE int32_t Sum(int64_t r, int64_t i) const { return x->Sum(row + r, first + i); }
  PUREKV_INLINE const int8_t* High(int64_t r, int64_t i) const { return x->high(row + r) + first + i; }
  PUREKV_INLINE const int8_t* Low(int64_t r, int64_t i) const { return x->low(row + r) + first + i; }
  PUREKV_INLINE const int16_t* Values(int64_t r, int64_t i) const { return x->values(row + r) + first + i; }
};

PUREKV_INLINE BlockArgs ArgsOf(const CodePanels& weights, int64_t panel, int64_t b, const IntegerRows* x = nullptr) {
  const uint8_t* const block = weights.Block(panel, b);
  const int64_t inputs = weights.inputs(b);
  return {.inputs = inputs,
          .codes = block,
          .numbers = block + weights.numbers_at(inputs),
          .bytes = block + weights.bytes_at(inputs),
          .dtype = weights.layout().scales,
          .x = x,
          .row = 0,
          .first = b * kBlock,
          .ahead = kAhead};
}

template <class V>
PUREKV_INLINE typename V::F Number(const BlockArgs& a, int64_t i, int64_t v) {
  return V::Scales(a.NumberAt(i, v * V::kLanes), a.dtype);
}
template <class V>
PUREKV_INLINE typename V::I Byte(const BlockArgs& a, int64_t i, int64_t v) {
  return V::Unsigned(a.ByteAt(i, v * V::kLanes));
}

// What a block adds to the totals of kRows rows, by form of the codes.
template <int64_t kGroup>
struct Block4G {
  static constexpr bool kFourBits = true;
  template <class V, int kRows>
  static PUREKV_INLINE void Add(const BlockArgs& a, typename V::F (*total)[V::kVectors]) {
    for (int64_t i = 0; i < a.inputs; i += kGroup) {
      typename V::I exact[kRows][V::kVectors];
      V::template FourBits<kRows>(a, i, kGroup, exact);
      PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) {
        const auto zero = Byte<V>(a, i / kGroup, v);
        const auto scale = Number<V>(a, i / kGroup, v);
        PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
          const auto moved = V::Subtract(V::template Shift<4>(exact[r][v]), V::Multiply(zero, V::Set(a.Sum(r, i))));
          const auto factor = V::Set(a.Factor(r, i) * 0.0625F);
          total[r][v] = V::MultiplyAdd(V::Float(moved), V::Multiply(scale, factor), total[r][v]);
        }
      }
    }
  }
};

struct Block4M {
  static constexpr bool kFourBits = true;
  template <class V, int kRows>
  static PUREKV_INLINE void Add(const BlockArgs& a, typename V::F (*total)[V::kVectors]) {
    for (int64_t i = 0; i < a.inputs; i += 32) {
      typename V::I exact[kRows][V::kVectors];
      V::template FourBits<kRows>(a, i, 32, exact);
      PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) {
        const auto scale = Number<V>(a, 2 * (i / 32), v), add = Number<V>(a, 2 * (i / 32) + 1, v);
        PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
          const auto factor = V::Set(a.Factor(r, i));
          const auto sum_of_x = V::Set(static_cast<float>(a.Sum(r, i)) * a.Factor(r, i));
          total[r][v] = V::MultiplyAdd(V::Float(exact[r][v]), V::Multiply(scale, factor), total[r][v]);
          total[r][v] = V::MultiplyAdd(sum_of_x, add, total[r][v]);
        }
      }
    }
  }
};

struct Block4K {
  static constexpr bool kFourBits = true;
  // Half a block shares the scale of x: what its four groups add, before the numbers of the block.
  template <class V, int kRows>
  static PUREKV_INLINE void Add(const BlockArgs& a, typename V::F (*total)[V::kVectors]) {
    for (int64_t half = 0; half < kBlock; half += 128) {
      typename V::F inner[kRows][V::kVectors];
      typename V::I low[kRows][V::kVectors];
      PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
        PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) {
          inner[r][v] = V::Set(0.0F);
          low[r][v] = V::Set(0);
        }
      }
      for (int64_t i = half; i < half + 128; i += 32) {
        typename V::I exact[kRows][V::kVectors];
        V::template FourBits<kRows>(a, i, 32, exact);
        PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) {
          const auto scale = V::Float(Byte<V>(a, i / 32, v));
          const auto least = Byte<V>(a, 8 + i / 32, v);
          PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
            inner[r][v] = V::MultiplyAdd(V::Float(exact[r][v]), scale, inner[r][v]);
            low[r][v] = V::Add(low[r][v], V::Multiply(least, V::Set(a.Sum(r, i))));
          }
        }
      }
      PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) {
        const auto scale = Number<V>(a, 0, v), least = Number<V>(a, 1, v);
        PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
          const auto moved = V::MultiplySubtract(inner[r][v], scale, V::Multiply(V::Float(low[r][v]), least));
          total[r][v] = V::MultiplyAdd(moved, V::Set(a.Factor(r, half)), total[r][v]);
        }
      }
    }
  }
};

// 8 bits, a scale per group, or (kScales false) none here.
template <int64_t kGroup, bool kScales>
struct Block8 {
  static constexpr bool kFourBits = false;
  template <class V, int kRows>
  static PUREKV_INLINE void Add(const BlockArgs& a, typename V::F (*total)[V::kVectors]) {
    for (int64_t i = 0; i < a.inputs; i += kGroup) {
      typename V::I exact[kRows][V::kVectors];
      // Of a last block that ends before: x is zeros there, whatever is read of what lies behind.
      V::template EightBits<kRows>(a, i, kGroup, exact);
      PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) {
        PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
          auto scale = V::Set(a.Factor(r, i));
          if constexpr (kScales) scale = V::Multiply(Number<V>(a, i / kGroup, v), scale);
          total[r][v] = V::MultiplyAdd(V::Float(exact[r][v]), scale, total[r][v]);
        }
      }
    }
  }
};
template <int64_t kGroup>
using Block8G = Block8<kGroup, true>;

struct Block8K {
  static constexpr bool kFourBits = false;
  template <class V, int kRows>
  static PUREKV_INLINE void Add(const BlockArgs& a, typename V::F (*total)[V::kVectors]) {
    for (int64_t half = 0; half < kBlock; half += 128) {
      typename V::F inner[kRows][V::kVectors];
      PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
        PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) inner[r][v] = V::Set(0.0F);
      }
      for (int64_t i = half; i < half + 128; i += 16) {
        typename V::I exact[kRows][V::kVectors];
        V::template EightBits<kRows>(a, i, 16, exact);
        PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) {
          const auto scale = V::Float(V::Signed(a.ByteAt(i / 16, v * V::kLanes)));
          PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
            inner[r][v] = V::MultiplyAdd(V::Float(exact[r][v]), scale, inner[r][v]);
          }
        }
      }
      PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) {
        const auto scale = Number<V>(a, 0, v);
        PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
          const auto factor = V::Set(a.Factor(r, half));
          total[r][v] = V::MultiplyAdd(V::Multiply(inner[r][v], scale), factor, total[r][v]);
        }
      }
    }
  }
};

template <class V, class Block, int kRows>
PUREKV_INLINE void AddBlock(const BlockArgs& args, float* sums) {
  typename V::F total[kRows][V::kVectors];
  PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
    PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) total[r][v] = V::Load(sums + r * kPanel + v * V::kLanes);
  }
  Block::template Add<V, kRows>(args, total);
  PUREKV_UNROLL for (int r = 0; r < kRows; ++r) {
    PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) V::Store(sums + r * kPanel + v * V::kLanes, total[r][v]);
  }
}

// Asks for the numbers and bytes of a block. They lie behind its codes, and its first group wants them.
inline void PrefetchNumbers(const CodePanels& weights, int64_t panel, int64_t b) {
  const uint8_t* const block = weights.Block(panel, b);
  const int64_t inputs = weights.inputs(b);
  const int64_t end = weights.bytes_at(inputs) + weights.layout().bytes(inputs) * kPanel;
  for (int64_t line = weights.numbers_at(inputs); line < end; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(block) + line, _MM_HINT_T0);
  }
}

// All blocks; rows share a block while it is in the L1 cache.
template <class V, class Block>
void Panel(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums) {
  for (int64_t b = 0; b < weights.blocks(); ++b) {
    const bool last = b + 1 == weights.blocks();
    const int64_t next_panel = last ? panel + 1 : panel, next_block = last ? 0 : b + 1;
    PrefetchNumbers(weights, next_panel, next_block);
    BlockArgs args = ArgsOf(weights, panel, b, &x);
    // The first rows bring a block from memory; while others find it in the cache, the next one comes.
    const int64_t next = weights.Block(next_panel, next_block) - args.codes;
    constexpr int kRows = Block::kFourBits ? V::kRows : V::kRowsOfBytes;
    for (; args.row + kRows <= x.rows(); args.row += kRows) {
      AddBlock<V, Block, kRows>(args, sums + args.row * kPanel);
      args.ahead = next;
    }
    for (; kRows > 2 && args.row + 2 <= x.rows(); args.row += 2) {
      AddBlock<V, Block, 2>(args, sums + args.row * kPanel);
      args.ahead = next;
    }
    for (; args.row < x.rows(); ++args.row) AddBlock<V, Block, 1>(args, sums + args.row * kPanel);
  }
}

// By group size: 32, 64 or 128.
template <class V, template <int64_t> class Block>
void PanelOfGroup(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums) {
  switch (weights.layout().group) {
    case 32:
      return Panel<V, Block<32>>(weights, panel, x, sums);
    case 64:
      return Panel<V, Block<64>>(weights, panel, x, sums);
    default:
      return Panel<V, Block<128>>(weights, panel, x, sums);
  }
}

template <class V>
void Product(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums) {
  std::memset(sums, 0, static_cast<size_t>(x.rows() * kPanel) * sizeof(float));
  switch (weights.layout().storage) {
    case QuantStorage::kW4G:
      return PanelOfGroup<V, Block4G>(weights, panel, x, sums);
    case QuantStorage::kW8G:
      return PanelOfGroup<V, Block8G>(weights, panel, x, sums);
    case QuantStorage::kW4M:
      return Panel<V, Block4M>(weights, panel, x, sums);
    case QuantStorage::kW4K:
      return Panel<V, Block4K>(weights, panel, x, sums);
    case QuantStorage::kW8K:
      return Panel<V, Block8K>(weights, panel, x, sums);
    case QuantStorage::kW8C:
      break;
  }
  Panel<V, Block8<IntegerRows::kGroup, false>>(weights, panel, x, sums);
  const float* const scales = weights.row_scales() + panel * kPanel;
  for (int64_t i = 0; i < x.rows() * kPanel; ++i) sums[i] *= scales[i % kPanel];
}

// What a code of kLanes outputs is worth: scale * code + add, for the inputs from i on that share them.
template <class V>
PUREKV_INLINE void Worth(const BlockArgs& a, const QuantLayout& layout, int64_t i, int64_t v, typename V::F* scale,
                         typename V::F* add) {
  *scale = V::Set(1.0F);
  *add = V::Set(0.0F);
  switch (layout.storage) {
    case QuantStorage::kW8C:
      return;
    case QuantStorage::kW8G:
      *scale = Number<V>(a, i / layout.group, v);
      return;
    case QuantStorage::kW4G: {
      *scale = Number<V>(a, i / layout.group, v);
      const auto zero = V::Multiply(V::Float(Byte<V>(a, i / layout.group, v)), V::Set(-0.0625F));
      *add = V::Multiply(*scale, zero);
      return;
    }
    case QuantStorage::kW4M:
      *scale = Number<V>(a, 2 * (i / 32), v);
      *add = Number<V>(a, 2 * (i / 32) + 1, v);
      return;
    case QuantStorage::kW4K: {
      *scale = V::Multiply(Number<V>(a, 0, v), V::Float(Byte<V>(a, i / 32, v)));
      const auto least = V::Multiply(Number<V>(a, 1, v), V::Float(Byte<V>(a, 8 + i / 32, v)));
      *add = V::Multiply(least, V::Set(-1.0F));
      return;
    }
    case QuantStorage::kW8K:
      *scale = V::Multiply(Number<V>(a, 0, v), V::Float(V::Signed(a.ByteAt(i / 16, v * V::kLanes))));
      return;
  }
}

// Four codes of each output, a byte each, from bit kFirst of `word` on, as bytes round(scale * code + add).
template <class V, bool kFourBits, int kFirst>
PUREKV_INLINE typename V::I RoundQuad(typename V::I word, typename V::F scale, typename V::F add) {
  typename V::I bytes = V::Set(0);
  const auto one = [&]<int kByte>() {
    typename V::I code;
    if constexpr (kFourBits) {
      code = V::And(V::template ShiftRight<8 * kByte + kFirst>(word), V::Set(15));
    } else {
      code = V::template ShiftRightSigned<24>(V::template Shift<24 - 8 * kByte>(word));
    }
    const auto value = V::Round(V::MultiplyAdd(V::Float(code), scale, add));
    bytes = V::Or(bytes, V::template Shift<8 * kByte>(V::And(value, V::Set(255))));
  };
  one.template operator()<0>();
  one.template operator()<1>();
  one.template operator()<2>();
  one.template operator()<3>();
  return bytes;
}

// A value's bits as bf16, ties to even, in the upper half of each lane; the lower half is not zeros.
template <class V>
PUREKV_INLINE typename V::I RoundBF16(typename V::F value) {
  const auto bits = V::Bits(value);
  const auto odd = V::And(V::template ShiftRight<16>(bits), V::Set(1));
  return V::Add(bits, V::Add(odd, V::Set(0x7FFF)));
}

// The codes of the bytes from bit kFirst of `word` on, two by two: scale * (code - zero) + add as pairs of bf16.
template <class V, bool kFourBits, int kFirst>
PUREKV_INLINE void StorePairs(typename V::I word, typename V::F zero, typename V::F scale, typename V::F add,
                              int8_t* to, int64_t to_next) {
  const auto value = [&]<int kByte>() {
    typename V::I code;
    if constexpr (kFourBits) {
      code = V::And(V::template ShiftRight<8 * kByte + kFirst>(word), V::Set(15));
    } else {
      code = V::template ShiftRightSigned<24>(V::template Shift<24 - 8 * kByte>(word));
    }
    return RoundBF16<V>(V::Add(V::Multiply(V::Subtract(V::Float(code), zero), scale), add));
  };
  const auto upper = V::Set(static_cast<int32_t>(0xFFFF0000));
  V::StoreInts(to, V::Or(V::template ShiftRight<16>(value.template operator()<0>()),
                         V::And(value.template operator()<1>(), upper)));
  V::StoreInts(to + to_next, V::Or(V::template ShiftRight<16>(value.template operator()<2>()),
                                   V::And(value.template operator()<3>(), upper)));
}

// As ExpandBlockBF16.
template <class V>
void BlockPairs(const CodePanels& weights, int64_t panel, int64_t b, int8_t* out) {
  constexpr int64_t kPair = kPanel * 4;  // bytes of a pair of inputs
  const QuantLayout& layout = weights.layout();
  const int64_t group = layout.storage == QuantStorage::kW8C ? 32 : std::min<int64_t>(layout.group, 32);
  const BlockArgs args = ArgsOf(weights, panel, b);
  for (int64_t first = 0; first < args.inputs; first += group) {
    PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) {
      typename V::F scale, add, zero = V::Set(0.0F);
      Worth<V>(args, layout, first, v, &scale, &add);
      if (layout.storage == QuantStorage::kW4G) {
        zero = V::Multiply(V::Float(Byte<V>(args, first / layout.group, v)), V::Set(0.0625F));
        add = V::Set(-0.0F);  // changes nothing
      } else if (layout.storage != QuantStorage::kW4M && layout.storage != QuantStorage::kW4K) {
        add = V::Set(-0.0F);
      }
      int8_t* const to = out + first / 2 * kPair + v * V::kLanes * 4;
      if (layout.four_bits()) {
        for (int64_t i = 0; i < group; i += 8) {
          const auto word = V::LoadInts(args.codes + (first + i) * kPanel / 2 + v * V::kLanes * 4);
          StorePairs<V, true, 0>(word, zero, scale, add, to + i / 2 * kPair, kPair);
          StorePairs<V, true, 4>(word, zero, scale, add, to + (i / 2 + 2) * kPair, kPair);
        }
      } else {
        for (int64_t i = 0; i < group; i += 4) {
          const auto word = V::LoadInts(args.codes + (first + i) * kPanel + v * V::kLanes * 4);
          StorePairs<V, false, 0>(word, zero, scale, add, to + i / 2 * kPair, kPair);
        }
      }
    }
  }
}

// As ExpandPanel; inverse: of its scales.
template <class V>
void PanelBytes(const CodePanels& weights, int64_t panel, const float* inverse, int8_t* out) {
  const QuantLayout& layout = weights.layout();
  const int64_t group = layout.storage == QuantStorage::kW8C ? 32 : std::min<int64_t>(layout.group, 32);
  for (int64_t b = 0; b < weights.blocks(); ++b) {
    const BlockArgs args = ArgsOf(weights, panel, b);
    for (int64_t first = 0; first < args.inputs; first += group) {
      PUREKV_UNROLL for (int64_t v = 0; v < V::kVectors; ++v) {
        typename V::F scale, add;
        Worth<V>(args, layout, first, v, &scale, &add);
        const auto by = V::Load(inverse + v * V::kLanes);
        scale = V::Multiply(scale, by);
        add = V::Multiply(add, by);
        int8_t* const to = out + (b * kBlock + first) * kPanel + v * V::kLanes * 4;
        if (layout.four_bits()) {
          for (int64_t i = 0; i < group; i += 8) {
            const auto word = V::LoadInts(args.codes + (first + i) * kPanel / 2 + v * V::kLanes * 4);
            V::StoreInts(to + i * kPanel, RoundQuad<V, true, 0>(word, scale, add));
            V::StoreInts(to + (i + 4) * kPanel, RoundQuad<V, true, 4>(word, scale, add));
          }
        } else {
          for (int64_t i = 0; i < group; i += 4) {
            const auto word = V::LoadInts(args.codes + (first + i) * kPanel + v * V::kLanes * 4);
            V::StoreInts(to + i * kPanel, RoundQuad<V, false, 0>(word, scale, add));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace purekv::code_kernels
