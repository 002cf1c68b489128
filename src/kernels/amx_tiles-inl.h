// The tile registers, in use while an object of this class lives. Included inside a region compiled for AMX, after
// <immintrin.h>.

// Eight tiles of 16 rows of 64 bytes: 0-3 sums, 4 and 5 left operands, 6 and 7 right ones. With `rest`, an even number
// of elements below 32, 5 and 7 are that deep only: what is left of a depth that is no multiple of 32. The tile state
// belongs to the thread; it is given back at the end of each task, as an idle one in use slows the core's sleep and
// every switch.
class Tiles {
 public:
  explicit Tiles(int64_t rest = 0) {
    struct alignas(64) Config {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static_assert(sizeof(Config) == 64);
    Config config;
    if (rest > 0) {
      config.bytes_per_row[5] = static_cast<uint16_t>(2 * rest);
      config.rows[7] = static_cast<uint8_t>(rest / 2);
    }
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};
