// Which URLs may be fetched, and which addresses dialled: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace purekv::server {

struct FetchRules {
  std::vector<std::string> domains{};  // as NormalDomain gives them; none: no URL is fetched
  std::vector<int> ports = {80, 443};
  bool private_addresses = false;  // any address and any port will do
};

// A host, "*.host" (all below it, itself not) or an address ("10.0.0.1", "[::1]"), as it is compared with a URL's: in
// lower case, without a dot at its end. Nothing where it is none of these.
std::optional<std::string> NormalDomain(std::string_view text);

// host: of a URL, as libcurl's parser gives it.
bool DomainAllowed(std::string_view host, const std::vector<std::string>& domains);

// Whether an address, of 4 or 16 bytes as they are sent, is one of the public net's single machines: global unicast by
// IANA's registries of special addresses (RFC 6890 and its updates). IPv6 that stands for IPv4 (mapped, NAT64, 6to4) is
// judged as that.
bool IsPublicAddress(std::span<const uint8_t> address);

}  // namespace purekv::server
