#include "plugin_file.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "coffer/base/bytes.h"
#include "coffer/base/text.h"
#include "coffer/crypto/primitives.h"

namespace coffer {
namespace {

namespace fs = std::filesystem;

constexpr off_t kLargestPlugin = 256 << 20;

std::string shown(const fs::path &p) { return printable(p.native(), 4096); }

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor &) = delete;
  Descriptor &operator=(const Descriptor &) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

bool is_plain_name(std::string_view s) {
  return s.size() <= 128 && s.front() != '.' && s.find("..") == s.npos && std::ranges::all_of(s, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                  c == '_' || c == '.';
         });
}

Result<fs::path> named_path(const PluginConfig &config) {
  const std::string &name = config.plugin;
  if (name.empty()) return fail(ErrorCode::kInvalidArgument, "'plugin' is missing");
  if (name.front() == '/') {
    if (name.find('\0') != std::string::npos)
      return fail(ErrorCode::kInvalidArgument, "'plugin' holds a NUL byte");
    return fs::path(name);
  }
  if (!is_plain_name(name))
    return fail(ErrorCode::kInvalidArgument,
                "'plugin' must be a name (letters, digits, '-', '_', '.') or an absolute path",
                "write for example plugin = \"storage-sqlite\" or plugin = \"/opt/plugins/mine.so\"");
  if (config.plugin_dir.empty() || !config.plugin_dir.is_absolute())
    return fail(ErrorCode::kInvalidArgument, "the plugin folder is not an absolute path",
                "set plugin_dir to an absolute path");
  return config.plugin_dir / (name + ".so");
}

// The owner's private group: his primary group, named like him, with no other member and no ACL that would
// hide behind its bits.
bool is_private_group(const fs::path &path, uid_t owner, gid_t group) {
  if (::getxattr(path.c_str(), "system.posix_acl_access", nullptr, 0) > 0) return false;
  std::array<char, 16384> user_text, group_text;
  passwd user{}, *found_user = nullptr;
  struct group g{}, *found_group = nullptr;
  if (::getpwuid_r(owner, &user, user_text.data(), user_text.size(), &found_user) != 0 || !found_user ||
      ::getgrgid_r(group, &g, group_text.data(), group_text.size(), &found_group) != 0 || !found_group)
    return false;
  if (user.pw_gid != group || std::string_view(user.pw_name) != g.gr_name) return false;
  for (char **member = g.gr_mem; *member; ++member)
    if (std::string_view(user.pw_name) != *member) return false;
  return true;
}

// REQUIRES: `st` is the state of `path`, a folder or a file.
Result<void> check_owner_and_mode(const fs::path &path, const struct stat &st) {
  const std::string what = (S_ISDIR(st.st_mode) ? "folder " : "file ") + shown(path);
  if (st.st_uid != 0 && st.st_uid != ::geteuid())
    return fail(ErrorCode::kPermissionDenied,
                what + " belongs to user " + std::to_string(st.st_uid) + ", who is neither root nor you",
                "chown root " + shown(path));
  // In a sticky folder of root nobody can replace what belongs to another.
  if (S_ISDIR(st.st_mode) && (st.st_mode & S_ISVTX) && st.st_uid == 0) return {};
  const bool others = st.st_mode & S_IWOTH;
  const bool group = (st.st_mode & S_IWGRP) && !is_private_group(path, st.st_uid, st.st_gid);
  if (!others && !group) return {};
  return fail(ErrorCode::kPermissionDenied,
              what + " is writable by " +
                  (others && group ? "its group and others"
                   : group         ? "its group"
                                   : "others"),
              std::string("chmod ") +
                  (others && group ? "go-w "
                   : group         ? "g-w "
                                   : "o-w ") +
                  shown(path));
}

Result<void> check_pin(const PluginConfig &config, const fs::path &path, int fd, const struct stat &st) {
  const std::optional<Bytes> pin = unhex(config.sha256);
  if (!pin || pin->size() != 32)
    return fail(ErrorCode::kInvalidArgument, "'sha256' must be 64 hexadecimal digits in lower case",
                "sha256sum " + shown(path));
  Bytes content(static_cast<size_t>(st.st_size));
  size_t have = 0;
  while (have < content.size()) {
    const ssize_t n = ::read(fd, content.data() + have, content.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(ErrorCode::kUnavailable, "file " + shown(path) + " cannot be read to its end");
    have += static_cast<size_t>(n);
  }
  const Hash actual = sha256(content);
  if (!std::ranges::equal(actual, *pin))
    return fail(ErrorCode::kPermissionDenied, "file " + shown(path) + " has another SHA-256 than its pin",
                "if you replaced the file yourself, pin it again: sha256sum " + shown(path));
  return {};
}

Result<fs::path> checked(const PluginConfig &config) {
  COFFER_TRY(const fs::path named, named_path(config));
  std::error_code ec;
  const fs::path path = fs::canonical(named, ec);
  if (ec == std::errc::no_such_file_or_directory || ec == std::errc::not_a_directory)
    return fail(ErrorCode::kNotFound, "there is no file " + shown(named),
                "'coffer plugin list' shows what is installed");
  if (ec)
    return fail(ErrorCode::kPermissionDenied, "file " + shown(named) + " cannot be reached: " + ec.message());

  fs::path folder;
  for (const fs::path &part : path.parent_path()) {
    folder /= part;
    struct stat st;
    if (::lstat(folder.c_str(), &st) != 0 || !S_ISDIR(st.st_mode))
      return fail(ErrorCode::kPermissionDenied, "folder " + shown(folder) + " changed while it was checked");
    COFFER_CHECK(check_owner_and_mode(folder, st));
  }

  struct stat st;
  // Asked before it is opened: opening a device can have effects of its own.
  if (::lstat(path.c_str(), &st) != 0 || !S_ISREG(st.st_mode))
    return fail(ErrorCode::kInvalidArgument, shown(path) + " is not a regular file",
                "name the plugin's .so file");
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (file.get() < 0)
    return fail(ErrorCode::kPermissionDenied,
                "file " + shown(path) + " cannot be opened: " + std::strerror(errno));
  if (::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode))
    return fail(ErrorCode::kPermissionDenied, "file " + shown(path) + " changed while it was checked");
  COFFER_CHECK(check_owner_and_mode(path, st));
  if (st.st_size > kLargestPlugin)
    return fail(ErrorCode::kInvalidArgument, "file " + shown(path) + " is larger than 256 MiB");
  if (!config.sha256.empty()) COFFER_CHECK(check_pin(config, path, file.get(), st));
  return path;
}

}  // namespace

Result<fs::path> checked_plugin_file(const PluginConfig &config) {
  Result<fs::path> path = checked(config);
  if (path) return path;
  Error error = std::move(path).error();
  const std::string_view name = config.plugin;
  if (!name.empty() && name.front() != '/' && is_plain_name(name))
    error = std::move(error).in("plugin " + config.plugin);
  return std::unexpected(std::move(error).in(config.section));
}

}  // namespace coffer
