// The tile registers, in use while an object of this class lives. Included inside a region compiled for AMX, after
// <immintrin.h>.

// Eight tiles of 16 rows of 64 bytes: 0-3 sums, 4 and 5 left operands, 6 and 7 right ones. The tile state belongs to
// the thread; it is given back at the end of each task, as an idle one in use slows the core's sleep and every switch.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) Config {
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    const Config config;
    static_assert(sizeof(Config) == 64);
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};
