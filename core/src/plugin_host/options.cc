#include "options.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "bridge.h"

namespace coffer {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestSecret = 64 * 1024;

std::unexpected<Error> wrong(std::string_view key, std::string_view what, std::string remedy = {}) {
  return fail(ErrorCode::kInvalidArgument, "option '" + printable(key, 128) + "' " + std::string(what),
              std::move(remedy));
}

struct Unit {
  std::string_view name;
  int64_t factor;
};
constexpr Unit kDurations[] = {{"ns", 1},
                               {"us", 1000},
                               {"ms", 1'000'000},
                               {"s", 1'000'000'000},
                               {"m", 60'000'000'000},
                               {"h", 3'600'000'000'000}};
constexpr Unit kSizes[] = {{"", 1}, {"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};

// "10s" -> 10'000'000'000; nullopt when it is no number with a known unit or does not fit.
std::optional<int64_t> number(std::string_view text, std::span<const Unit> units) {
  int64_t n = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (ec != std::errc()) return std::nullopt;
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  for (const Unit &u : units) {
    int64_t out;
    if (unit == u.name) return __builtin_mul_overflow(n, u.factor, &out) ? std::nullopt : std::optional(out);
  }
  return std::nullopt;
}

// A JSON array of strings, as the engine config writes a TOML array.
bool is_json_list(std::string_view s) {
  size_t i = 0;
  const auto blanks = [&] {
    while (i < s.size() && (s[i] == ' ' || s[i] == '\t')) ++i;
  };
  const auto take = [&](char c) { return i < s.size() && s[i] == c ? (++i, true) : false; };
  blanks();
  if (!take('[')) return false;
  blanks();
  if (!take(']')) {
    do {
      blanks();
      if (!take('"')) return false;
      while (i < s.size() && s[i] != '"') {
        if (static_cast<uint8_t>(s[i]) < 0x20) return false;
        i += s[i] == '\\' ? 2 : 1;
      }
      if (!take('"')) return false;
      blanks();
    } while (take(','));
    if (!take(']')) return false;
  }
  blanks();
  return i == s.size();
}

fs::path absolute_path(const std::string &text, const fs::path &base) {
  return (base / text).lexically_normal();
}

// `file:PATH`: the file's exact bytes, in locked memory from the first read on.
Result<SecretBytes> secret_from(std::string_view key, const std::string &text, const fs::path &base) {
  constexpr std::string_view kScheme = "file:";
  if (!text.starts_with(kScheme) || text.size() == kScheme.size() || text.find('\0') != std::string::npos)
    return wrong(key, "is a secret and takes file:PATH, never the value itself",
                 "write the value to a file of mode 0600 and name that file");
  const fs::path path = absolute_path(text.substr(kScheme.size()), base);
  const std::string named = "file " + printable(path.native(), 4096);
  const int fd = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) {
    const int why = errno;
    const ErrorCode code =
        why == ENOENT || why == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kPermissionDenied;
    const std::string reason = why == ELOOP ? "is a symbolic link" : std::strerror(why);
    return fail(code, "option '" + std::string(key) + "': " + named + ": " + reason);
  }
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } const closer{fd};
  struct stat st;
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return wrong(key, "names no regular file: " + named);
  if (st.st_uid != 0 && st.st_uid != ::geteuid())
    return fail(ErrorCode::kPermissionDenied, "option '" + std::string(key) + "': " + named +
                                                  " belongs to user " + std::to_string(st.st_uid) +
                                                  ", who is neither root nor you");
  if (st.st_mode & 077)
    return fail(ErrorCode::kPermissionDenied,
                "option '" + std::string(key) + "': " + named + " is open to its group or others",
                "chmod 600 " + printable(path.native(), 4096));
  if (st.st_size > static_cast<off_t>(kLargestSecret))
    return wrong(key, "names a file larger than 64 KiB: " + named);
  SecretBuilder content;
  SecretBytes chunk(4096);
  for (;;) {
    const ssize_t n = ::read(fd, chunk.fill().data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return fail(ErrorCode::kUnavailable, "option '" + std::string(key) + "': " + named + " cannot be read");
    if (n == 0) break;
    content.append(chunk.reveal().first(static_cast<size_t>(n)));
    if (content.size() > kLargestSecret) return wrong(key, "names a file larger than 64 KiB: " + named);
  }
  return content.take();
}

Result<std::string> in_range(const coffer_option &o, std::optional<int64_t> n, std::string_view expected) {
  if (!n) return wrong(o.key, "must be " + std::string(expected));
  if (o.min_value <= o.max_value && (*n < o.min_value || *n > o.max_value)) {
    const char *unit = o.type == COFFER_OPT_DURATION ? " ns" : o.type == COFFER_OPT_BYTES ? " bytes" : "";
    return wrong(o.key, "must be between " + std::to_string(o.min_value) + unit + " and " +
                            std::to_string(o.max_value) + unit);
  }
  return std::to_string(*n);
}

// The value as the plugin gets it.
Result<std::string> checked_value(const coffer_option &o, const std::string &text, const fs::path &base) {
  if (text.find('\0') != std::string::npos) return wrong(o.key, "must not hold a NUL byte");
  switch (o.type) {
    case COFFER_OPT_STRING:
      return text;
    case COFFER_OPT_INT: {
      constexpr Unit kNone[] = {{"", 1}};
      return in_range(o, number(text, kNone), "a whole number");
    }
    case COFFER_OPT_BOOL:
      if (text != "true" && text != "false") return wrong(o.key, "must be true or false");
      return text;
    case COFFER_OPT_DURATION: {
      const std::optional<int64_t> n = text == "0" ? 0 : number(text, kDurations);
      return in_range(o, n && *n < 0 ? std::nullopt : n, "a duration such as \"10s\" or \"500ms\"");
    }
    case COFFER_OPT_BYTES: {
      const std::optional<int64_t> n = number(text, kSizes);
      return in_range(o, n && *n < 0 ? std::nullopt : n, "a size such as \"64KiB\" or \"1GiB\"");
    }
    case COFFER_OPT_PATH: {
      if (text.empty()) return wrong(o.key, "must be a path");
      const fs::path path = absolute_path(text, base);
      if (!path.is_absolute()) return wrong(o.key, "must be an absolute path");
      std::error_code ec;
      if ((o.flags & COFFER_OPTF_EXISTS) && !fs::exists(path, ec))
        return fail(ErrorCode::kNotFound,
                    "option '" + std::string(o.key) + "': there is no " + printable(path.native(), 4096));
      return path.native();
    }
    case COFFER_OPT_ENUM: {
      std::string all;
      for (const char *const *v = o.enum_values; v && *v; ++v) {
        if (text == *v) return text;
        all += (all.empty() ? "" : ", ") + printable(*v, 64);
      }
      return wrong(o.key, "must be one of: " + all);
    }
    case COFFER_OPT_URL: {
      const size_t colon = text.find("://");
      if (colon == std::string::npos || colon == 0 || text.size() == colon + 3 ||
          printable(text, 8192) != text || text.find(' ') != std::string::npos)
        return wrong(o.key, "must be a URL");
      return text;
    }
    case COFFER_OPT_LIST:
      if (!is_json_list(text)) return wrong(o.key, "must be an array of strings");
      return text;
    default:
      return fail(ErrorCode::kFailedPrecondition,
                  "option '" + std::string(o.key) + "' has a type that this version of Coffer does not know",
                  "use a newer Coffer or an older plugin");
  }
}

}  // namespace

Result<ResolvedOptions> ResolvedOptions::resolve(const PluginConfig &config, const Plugin &plugin) {
  const coffer_descriptor &d = plugin.descriptor();
  const std::span schema(d.options, d.n_options);
  const std::string where = config.section + ": plugin " + plugin.name();
  const auto in_place = [&](Error e) { return std::unexpected(std::move(e).in(where)); };

  for (const auto &[key, text] : config.options) {
    if (std::ranges::any_of(schema, [&](const coffer_option *o) { return key == o->key; })) continue;
    std::vector<std::string_view> known;
    for (const coffer_option *o : schema) known.emplace_back(o->key);
    const std::string_view meant = closest(key, known);
    return in_place({ErrorCode::kInvalidArgument, "there is no option '" + printable(key, 128) + "'",
                     meant.empty() ? "'coffer plugin info " + plugin.name() + "' lists the options"
                                   : "did you mean '" + std::string(meant) + "'?"});
  }

  ResolvedOptions out;
  out.instance_name_ = config.section;
  std::erase_if(out.instance_name_, [](char c) { return c == '[' || c == ']'; });
  for (const coffer_option *o : schema) {
    const auto given = config.options.find(o->key);
    if (given == config.options.end() && !o->default_value) {
      if (o->flags & COFFER_OPTF_REQUIRED)
        return in_place(
            {ErrorCode::kInvalidArgument, "option '" + std::string(o->key) + "' is missing",
             o->example ? "for example: " + std::string(o->key) + " = \"" + printable(o->example, 256) + "\""
                        : ""});
      continue;
    }
    const std::string text = given != config.options.end() ? given->second : o->default_value;
    if (o->flags & COFFER_OPTF_SECRET) {
      Result<SecretBytes> value = secret_from(o->key, text, config.base_dir);
      if (!value) return in_place(std::move(value).error());
      out.secret_.emplace_back(o->key, *std::move(value));
    } else {
      Result<std::string> value = checked_value(*o, text, config.base_dir);
      if (!value) return in_place(std::move(value).error());
      out.plain_.emplace_back(o->key, *std::move(value));
    }
  }
  return out;
}

coffer_open_args ResolvedOptions::args(const PluginConfig &config, std::vector<coffer_pair> &pairs) const {
  pairs.clear();
  for (const auto &[key, value] : plain_) pairs.push_back({bridge::str(key), bridge::bytes(as_bytes(value))});
  for (const auto &[key, value] : secret_) pairs.push_back({bridge::str(key), bridge::bytes(value.reveal())});
  coffer_open_args args{};
  args.struct_size = sizeof args;
  args.flags = (config.read_only ? COFFER_OPEN_READONLY : 0u) | (config.ambient ? COFFER_OPEN_ALLOW_ENV : 0u);
  args.instance_name = bridge::str(instance_name_);
  args.options = pairs.data();
  args.n_options = pairs.size();
  args.state_dir = bridge::str(config.state_dir.native());
  return args;
}

}  // namespace coffer
