#include "server/fetch_rules.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "base/error.h"

namespace purekv::server {
namespace {

constexpr size_t kMaxName = 253, kMaxLabel = 63;

struct Net {
  std::array<uint8_t, 16> address;
  int bits;
};

// Of IPv4: what is no single machine of the public net.
constexpr Net kSpecial4[] = {
    {{0}, 8},              // this network
    {{10}, 8},             // private
    {{100, 64}, 10},       // behind a carrier's translation
    {{127}, 8},            // loopback
    {{169, 254}, 16},      // link-local; clouds tell secrets there
    {{172, 16}, 12},       // private
    {{192, 0, 0}, 24},     // protocol assignments
    {{192, 0, 2}, 24},     // documentation
    {{192, 88, 99}, 24},   // relays of 6to4
    {{192, 168}, 16},      // private
    {{198, 18}, 15},       // benchmarking
    {{198, 51, 100}, 24},  // documentation
    {{203, 0, 113}, 24},   // documentation
    {{224}, 4},            // multicast
    {{240}, 4},            // reserved, and broadcast
};

// Of IPv6, within 2000::/3: nothing outside it is global unicast.
constexpr Net kGlobal6 = {{0x20}, 3};
constexpr Net kSpecial6[] = {
    {{0x20, 0x01}, 23},              // protocol assignments: Teredo, benchmarking, ORCHID
    {{0x20, 0x01, 0x0d, 0xb8}, 32},  // documentation
    {{0x3f, 0xff}, 20},              // documentation
};

// IPv6 that holds an IPv4 address from this byte on.
struct Holder {
  Net net;
  size_t at;
};
constexpr Holder kHolders[] = {
    {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 96}, 12},  // mapped
    {{{0x00, 0x64, 0xff, 0x9b}, 96}, 12},                    // NAT64
    {{{0x20, 0x02}, 16}, 2},                                 // 6to4
};

bool Lies(std::span<const uint8_t> address, const Net& net) {
  const auto whole = static_cast<size_t>(net.bits / 8);
  if (!std::equal(address.begin(), address.begin() + static_cast<std::ptrdiff_t>(whole), net.address.begin())) {
    return false;
  }
  if (net.bits % 8 == 0) return true;
  const auto mask = static_cast<uint8_t>(0xff << (8 - net.bits % 8));
  return (address[whole] & mask) == (net.address[whole] & mask);
}

bool LiesInAny(std::span<const uint8_t> address, std::span<const Net> nets) {
  return std::any_of(nets.begin(), nets.end(), [&](const Net& net) { return Lies(address, net); });
}

bool IsLabel(std::string_view label) {
  const auto fine = [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_'; };
  return !label.empty() && label.size() <= kMaxLabel && std::all_of(label.begin(), label.end(), fine);
}

// "[::1]" in its shortest form.
std::optional<std::string> Bracketed(std::string_view text) {
  if (!text.starts_with('[') || !text.ends_with(']')) return std::nullopt;
  std::array<uint8_t, 16> address{};
  std::array<char, INET6_ADDRSTRLEN> shortest{};
  const std::string inner(text.substr(1, text.size() - 2));
  if (inet_pton(AF_INET6, inner.c_str(), address.data()) != 1) return std::nullopt;
  inet_ntop(AF_INET6, address.data(), shortest.data(), shortest.size());
  return StrCat("[", shortest.data(), "]");
}

// A name or an address, without "*.".
std::optional<std::string> NormalHost(std::string_view text) {
  if (text.starts_with('[')) return Bracketed(text);
  if (text.ends_with('.')) text.remove_suffix(1);
  if (text.size() > kMaxName) return std::nullopt;
  std::string name(text);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    if (!IsLabel(std::string_view(name).substr(begin, end - begin))) return std::nullopt;
    begin = end + 1;
  }
  return name;
}

// Whether the system would take it for an IPv4 address: no name ends in a number, however that is written.
bool LooksLikeIpv4(std::string_view name) {
  const std::string_view last = name.substr(name.rfind('.') + 1);
  return std::isdigit(static_cast<unsigned char>(last.front())) != 0 &&
         std::all_of(last.begin(), last.end(), [](unsigned char c) { return std::isxdigit(c) != 0 || c == 'x'; });
}

}  // namespace

std::optional<std::string> NormalDomain(std::string_view text) {
  const bool below = text.starts_with("*.");
  if (below) text.remove_prefix(2);
  std::optional<std::string> host = NormalHost(text);
  if (!host || host->front() == '[') return below ? std::nullopt : host;
  if (LooksLikeIpv4(*host)) {
    in_addr address{};
    // In any other form it would never be met: libcurl writes those of URLs so.
    if (below || inet_pton(AF_INET, host->c_str(), &address) != 1) return std::nullopt;
  }
  return below ? "*." + *host : *host;
}

bool DomainAllowed(std::string_view host, const std::vector<std::string>& domains) {
  const std::optional<std::string> name = NormalHost(host);
  if (!name) return false;
  return std::any_of(domains.begin(), domains.end(), [&](const std::string& domain) {
    if (!domain.starts_with("*.")) return *name == domain;
    return name->size() >= domain.size() && name->ends_with(std::string_view(domain).substr(1));
  });
}

bool IsPublicAddress(std::span<const uint8_t> address) {
  PUREKV_CHECK(address.size() == 4 || address.size() == 16, address.size());
  if (address.size() == 4) return !LiesInAny(address, kSpecial4);
  for (const Holder& one : kHolders) {
    if (Lies(address, one.net)) return IsPublicAddress(address.subspan(one.at, 4));
  }
  return Lies(address, kGlobal6) && !LiesInAny(address, kSpecial6);
}

}  // namespace purekv::server
