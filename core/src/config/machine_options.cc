#include "coffer/config/machine_options.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "coffer/base/names.h"

namespace coffer {
namespace {

constexpr uint64_t kLeastMemory = 6u << 20;  // what container engines need to start anything
constexpr uint64_t kMostMemory = 1ull << 50;
constexpr uint64_t kLongestStop = 24 * 60 * 60;

std::unexpected<Error> wrong(std::string what) { return fail(ErrorCode::kInvalidArgument, std::move(what)); }

bool digit(char c) { return c >= '0' && c <= '9'; }
bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string mapped(std::string_view in, char (*to)(char)) {
  std::string out(in);
  std::ranges::transform(out, out.begin(), to);
  return out;
}

// Digits alone: no sign, no blank.
std::optional<uint64_t> number(std::string_view text) {
  uint64_t n = 0;
  const auto [end, e] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (text.empty() || !digit(text[0]) || e != std::errc() || end != text.data() + text.size()) return {};
  return n;
}

Result<uint16_t> port_number(std::string_view text, uint64_t least) {
  const auto n = number(text);
  if (!n || *n < least || *n > 65535) return wrong("a port is a number from 1 to 65535");
  return static_cast<uint16_t>(*n);
}

bool is_address(const std::string &text, int family) {
  unsigned char address[16];
  return ::inet_pton(family, text.c_str(), address) == 1;
}

// A name that no separator of any engine is in.
bool plain_name(std::string_view name, std::string_view also) {
  return !name.empty() && name.size() <= 128 && (digit(name[0]) || letter(name[0])) &&
         std::ranges::all_of(
             name, [&](char c) { return digit(c) || letter(c) || also.find(c) != std::string_view::npos; });
}

bool inside(std::string_view path, std::string_view folder) {
  return path.size() > folder.size() && path.starts_with(folder) && path[folder.size()] == '/';
}

}  // namespace

bool valid_variable(std::string_view name) {
  return !name.empty() && !(name[0] >= '0' && name[0] <= '9') && std::ranges::all_of(name, [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

Result<Port> parse_port(std::string_view text) {
  const auto expected = [] { return wrong("expected [[IP:]HOST:]PORT[/tcp|/udp]"); };
  Port p;
  if (const size_t slash = text.find('/'); slash != std::string_view::npos) {
    const std::string_view protocol = text.substr(slash + 1);
    if (protocol != "tcp" && protocol != "udp") return expected();
    p.udp = protocol == "udp";
    text = text.substr(0, slash);
  }
  const size_t last = text.rfind(':');
  COFFER_TRY(p.port, port_number(text.substr(last == std::string_view::npos ? 0 : last + 1), 1));
  if (last == std::string_view::npos) return p;
  text = text.substr(0, last);
  size_t host_at = 0;
  if (text.starts_with('[')) {
    const size_t close = text.find("]:");
    if (close == std::string_view::npos) return expected();
    p.host_ip = text.substr(1, close - 1);
    if (!is_address(p.host_ip, AF_INET6)) return wrong("what stands in [ ] is no IPv6 address");
    host_at = close + 2;
  } else if (const size_t colon = text.find(':'); colon != std::string_view::npos) {
    p.host_ip = text.substr(0, colon);
    if (!is_address(p.host_ip, AF_INET)) return wrong("the address is no IPv4 address, nor IPv6 in [ ]");
    host_at = colon + 1;
  }
  COFFER_TRY(p.host_port, port_number(text.substr(host_at), 0));
  return p;
}

Result<void> check_ports(const std::vector<Port> &ports) {
  for (size_t i = 0; i < ports.size(); ++i)
    for (size_t k = 0; k < i; ++k) {
      const Port &a = ports[i], &b = ports[k];
      const bool same_address = a.host_ip == b.host_ip || a.host_ip.empty() || b.host_ip.empty();
      if (a.host_port && a.host_port == b.host_port && a.udp == b.udp && same_address)
        return wrong("port " + std::to_string(a.host_port) + " of the host is given twice");
    }
  return {};
}

Result<void> check_mount(const Mount &m) {
  if (m.source.starts_with('/')) {
    // The rules of a path in a Machine, without its forbidden places: engines have the same separators.
    for (size_t at = 0; at < m.source.size();) {
      const size_t end = std::min(m.source.find('/', at + 1), m.source.size());
      const std::string_view part = std::string_view(m.source).substr(at + 1, end - at - 1);
      if (part == "." || part == "..") return wrong("the source must not have . or .. in it");
      at = end;
    }
    for (const char c : m.source)
      if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f || c == ':' || c == ',')
        return wrong("the source must not have control characters, ':' or ','");
    if (m.source.size() > 4095) return wrong("the source has at most 4095 bytes");
  } else if (!plain_name(m.source, "_.-")) {
    return wrong(
        "the source is an absolute path, or the name of a volume: 1 to 128 of A-Z, a-z, 0-9, _, . and -");
  }
  return check_guest_path(m.target);
}

Result<Mount> parse_mount(std::string_view text) {
  const auto expected = [] { return wrong("expected SRC:DST[:ro]"); };
  const size_t first = text.find(':');
  if (first == std::string_view::npos || first == 0) return expected();
  Mount m;
  m.source = text.substr(0, first);
  text = text.substr(first + 1);
  if (const size_t second = text.find(':'); second != std::string_view::npos) {
    const std::string_view mode = text.substr(second + 1);
    if (mode != "ro" && mode != "rw") return expected();
    m.read_only = mode == "ro";
    text = text.substr(0, second);
  }
  m.target = text;
  COFFER_CHECK(check_mount(m));
  return m;
}

Result<void> check_mounts(const std::vector<Mount> &mounts, const std::vector<std::string> &files) {
  const auto meet = [](const std::string &a, const std::string &b) {
    return a == b || inside(a, b) || inside(b, a);
  };
  for (size_t i = 0; i < mounts.size(); ++i) {
    const std::string &target = mounts[i].target;
    for (size_t k = 0; k < i; ++k)
      if (meet(target, mounts[k].target))
        return wrong("the mounts at " + mounts[k].target + " and " + target +
                     " must not be the same or one inside the other");
    for (const std::string &file : files)
      if (meet(target, file))
        return wrong("the mount at " + target + " and the file " + file +
                     " must not be the same or one inside the other");
  }
  return {};
}

Result<uint64_t> parse_memory(std::string_view text) {
  const std::string low = mapped(text, lower);
  std::string_view rest = low;
  const auto expected = [] { return wrong("expected a number of bytes, or one with k, m or g behind it"); };
  int shift = 0;
  if (rest.ends_with('b')) {
    rest.remove_suffix(1);
    if (rest.empty()) return expected();
  }
  if (rest.ends_with('k')) shift = 10;
  if (rest.ends_with('m')) shift = 20;
  if (rest.ends_with('g')) shift = 30;
  if (shift) rest.remove_suffix(1);
  const auto n = number(rest);
  if (!n) return expected();
  if (*n > kMostMemory >> shift) return wrong("memory is at most 1 PiB");
  const uint64_t bytes = *n << shift;
  if (bytes != 0 && bytes < kLeastMemory) return wrong("memory is at least 6 MiB, or 0 for no limit");
  return bytes;
}

Result<RestartPolicy> parse_restart(std::string_view text) {
  if (text == "no" || text == "never") return RestartPolicy::kNo;
  if (text == "on-failure") return RestartPolicy::kOnFailure;
  if (text == "always") return RestartPolicy::kAlways;
  return wrong("expected no, on-failure or always");
}

Result<std::string> parse_signal(std::string_view text) {
  if (const auto n = number(text)) {
    if (*n >= 1 && *n <= 64) return std::to_string(*n);
  } else {
    const std::string name = mapped(text, upper);
    const std::string_view bare = std::string_view(name).substr(name.starts_with("SIG") ? 3 : 0);
    if (!bare.empty() && bare.size() <= 16 && letter(bare[0]) &&
        std::ranges::all_of(bare, [](char c) { return letter(c) || digit(c) || c == '+' || c == '-'; }))
      return "SIG" + std::string(bare);
  }
  return wrong("expected a signal, as in SIGTERM, or its number from 1 to 64");
}

Result<uint64_t> parse_stop_timeout(std::string_view text) {
  uint64_t unit = 1;
  if (text.ends_with('s') || text.ends_with('m')) {
    if (text.ends_with('m')) unit = 60;
    text.remove_suffix(1);
  }
  const auto n = number(text);
  if (!n || *n == 0 || *n > kLongestStop / unit) return wrong("expected a number of seconds from 1 to 86400");
  return *n * unit * 1000;
}

Result<uint64_t> parse_duration(std::string_view text) {
  constexpr uint64_t kDay = 24 * 60 * 60 * 1000;
  static constexpr std::pair<std::string_view, uint64_t> kUnits[] = {
      {"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};
  const auto expected = [] { return wrong("expected a time with its unit, as in 500ms, 10s or 1m30s"); };
  if (text.empty()) return expected();
  uint64_t sum = 0;
  while (!text.empty()) {
    const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    const auto n = number(text.substr(0, digits));
    text.remove_prefix(digits);
    const auto *unit = std::ranges::find_if(kUnits, [&](const auto &u) { return text.starts_with(u.first); });
    if (!n || unit == std::end(kUnits)) return expected();
    text.remove_prefix(unit->first.size());
    if (*n > kDay / unit->second || (sum += *n * unit->second) > kDay)
      return wrong("a time is at most a day");
  }
  return sum;
}

Result<std::string> parse_reload(std::string_view text) {
  constexpr std::string_view kSignal = "signal:";
  if (text == "restart") return "";
  if (text == "none") return "none";
  if (text.starts_with(kSignal))
    if (auto signal = parse_signal(text.substr(kSignal.size()))) return std::string(kSignal) + *signal;
  return wrong("expected restart, none or a signal, as in signal:HUP");
}

Result<void> check_reload(const std::vector<std::pair<std::string, std::string>> &files) {
  static constexpr std::string_view kSystem[] = {
      "",     "/bin",  "/boot", "/dev", "/etc",  "/home", "/lib", "/lib64", "/media", "/mnt",
      "/opt", "/proc", "/root", "/run", "/sbin", "/srv",  "/sys", "/tmp",   "/usr",   "/var"};
  for (const auto &[path, reload] : files) {
    if (reload.empty()) continue;
    const std::string folder = path.substr(0, path.rfind('/'));
    if (std::ranges::find(kSystem, folder) != std::end(kSystem))
      return wrong("file " + path + " is to be replaced in a running Machine: it needs a folder of its own");
    for (const auto &[other, others_reload] : files)
      if (others_reload.empty() && inside(other, folder))
        return wrong("the folder of " + path +
                     ", which is to be replaced in a running Machine, must not have " + other +
                     ", which is not");
  }
  return {};
}

Result<void> check_check(const Check &c) {
  if (c.name.empty() || c.name.size() > 128 || !std::ranges::all_of(c.name, [](char ch) {
        return letter(ch) || digit(ch) || ch == '_' || ch == '.' || ch == '-';
      }))
    return wrong("a check has a name of 1 to 128 of A-Z, a-z, 0-9, _, . and -");
  if (c.interval_ms == 0 || c.timeout_ms == 0) return wrong("interval and timeout are more than 0");
  if (c.kind == Check::Kind::kCommand) {
    if (c.command.empty() || c.command.front().empty()) return wrong("a check of type command has a command");
    return {};
  }
  if (c.port == 0) return wrong("a check has a port from 1 to 65535");
  if (c.kind == Check::Kind::kTcp) return {};
  const auto fine = [](char ch) { return ch > 0x20 && ch < 0x7f; };
  if (!c.path.starts_with('/') || c.path.size() > 4096 || !std::ranges::all_of(c.path, fine))
    return wrong("the path of a check begins with / and has neither blanks nor control characters");
  if (c.method.empty() || c.method.size() > 16 ||
      !std::ranges::all_of(c.method, [](char ch) { return ch >= 'A' && ch <= 'Z'; }))
    return wrong("the method of a check is of A-Z");
  return {};
}

Result<void> check_variables(const std::vector<SecretVariable> &all) {
  for (size_t i = 0; i < all.size(); ++i) {
    COFFER_CHECK(check_secret_name(all[i].secret));
    if (!valid_variable(all[i].variable) || all[i].variable.size() > 255 ||
        all[i].variable.starts_with("COFFER_"))
      return wrong(
          "a variable has a name of A-Z, a-z, 0-9 and _ that does not begin with a digit or COFFER_");
    for (size_t k = 0; k < i; ++k)
      if (all[i].variable == all[k].variable) return wrong("variable " + all[i].variable + " is given twice");
  }
  return {};
}

Result<std::string> parse_capability(std::string_view text) {
  std::string name = mapped(text, upper);
  if (name.starts_with("CAP_")) name = name.substr(4);
  if (name.empty() || name.size() > 32 ||
      !std::ranges::all_of(name, [](char c) { return letter(c) || digit(c) || c == '_'; }))
    return wrong("expected a capability, as in NET_RAW, or ALL");
  return name;
}

Result<void> check_network(std::string_view text) {
  if (!plain_name(text, "_.-")) return wrong("a network's name is 1 to 128 of A-Z, a-z, 0-9, _, . and -");
  return {};
}

}  // namespace coffer
