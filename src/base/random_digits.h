// Names that nothing else has.
#pragma once

#include <string>

namespace purekv {

// Random hexadecimal digits. No secret: who sees some may foretell others.
std::string RandomDigits(int count);

}  // namespace purekv
