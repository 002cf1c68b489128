#include "base/random_digits.h"

#include <random>

namespace purekv {

std::string RandomDigits(int count) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  std::string digits;
  while (static_cast<int>(digits.size()) < count) digits.push_back("0123456789abcdef"[random() % 16]);
  return digits;
}

}  // namespace purekv
