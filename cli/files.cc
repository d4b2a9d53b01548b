#include "files.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <iostream>

#include "coffer/base/names.h"
#include "coffer/crypto/primitives.h"
#include "coffer/posix.hpp"

namespace coffer::cli {
namespace {

using sdk::Fd;

std::unexpected<Error> os_error(std::string what) {
  const int e = errno;
  const ErrorCode code = e == ENOENT                               ? ErrorCode::kNotFound
                         : e == EACCES || e == EPERM || e == EROFS ? ErrorCode::kPermissionDenied
                         : e == EEXIST                             ? ErrorCode::kAlreadyExists
                                                                   : ErrorCode::kUnavailable;
  return fail(code, std::move(what) + ": " + std::strerror(e));
}

Result<SecretBytes> read_all(int fd, size_t limit, const std::string &what) {
  SecretBuilder out;
  SecretBytes chunk(64 * 1024);
  for (;;) {
    const ssize_t n = ::read(fd, chunk.fill().data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return os_error(what);
    if (n == 0) return out.take();
    out.append(chunk.reveal().first(static_cast<size_t>(n)));
    if (out.size() > limit)
      return fail(ErrorCode::kInvalidArgument, what + ": more than " + std::to_string(limit) + " bytes");
  }
}

Result<void> write_all(int fd, ByteSpan content, const std::string &what) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return os_error(what);
    content = content.subspan(static_cast<size_t>(n));
  }
  return {};
}

}  // namespace

Result<void> write_file_in_pieces(const std::filesystem::path &path, unsigned mode, bool replace,
                                  const std::function<Result<void>(const Write &)> &fill) {
  const std::string what = path.string();
  const std::string temporary = what + "." + hex(random_array<6>());
  const auto write = [&]() -> Result<void> {
    const Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (!fd) return os_error(what);
    if (::fchmod(fd.get(), mode) != 0) return os_error(what);
    COFFER_CHECK(fill([&](ByteSpan piece) { return write_all(fd.get(), piece, what); }));
    if (::fsync(fd.get()) != 0) return os_error(what);
    if (replace ? ::rename(temporary.c_str(), what.c_str()) : ::link(temporary.c_str(), what.c_str()))
      return os_error(what);
    const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
    const Fd folder(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder || ::fsync(folder.get()) != 0) return os_error(what);
    return {};
  };
  auto done = write();
  if (!done || !replace) ::unlink(temporary.c_str());
  return done;
}

namespace {
Result<void> write_file(const std::filesystem::path &path, ByteSpan content, unsigned mode, bool replace) {
  return write_file_in_pieces(path, mode, replace, [&](const Write &write) { return write(content); });
}
}  // namespace

Result<void> remove_file(const std::filesystem::path &path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return os_error(path.string());
  const Fd folder(::open(path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder || ::fsync(folder.get()) != 0) return os_error(path.string());
  return {};
}

Result<InputFile> InputFile::open(const std::filesystem::path &path) {
  const std::string what = path.string();
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return os_error(what);
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return os_error(what);
  if (!S_ISREG(st.st_mode)) return fail(ErrorCode::kInvalidArgument, what + " is not a file");
  return InputFile(fd.release(), what);
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

Result<size_t> InputFile::read(std::span<uint8_t> out) {
  size_t got = 0;
  while (got < out.size()) {
    const ssize_t n = ::read(fd_, out.data() + got, out.size() - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return os_error(what_);
    if (n == 0) break;
    got += static_cast<size_t>(n);
  }
  return got;
}

Result<SecretBytes> read_stdin(size_t limit, std::string_view what) {
  if (isatty(STDIN_FILENO))
    return fail(ErrorCode::kInvalidArgument,
                std::string(what) + " is expected on standard input, which is a terminal",
                "Use a pipe or `< FILE`.");
  return read_all(STDIN_FILENO, limit, std::string(what));
}

Result<SecretBytes> read_file(const std::filesystem::path &path, size_t limit, std::string what) {
  if (what.empty()) what = path.string();
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return os_error(what);
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return os_error(what);
  if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
    return fail(ErrorCode::kInvalidArgument, what + " is not a file");
  if (S_ISFIFO(st.st_mode)) {
    // Read before its writer has come, a FIFO would be an empty file.
    pollfd p{fd.get(), POLLIN, 0};
    while (::poll(&p, 1, -1) < 0)
      if (errno != EINTR) return os_error(what);
  }
  if (::fcntl(fd.get(), F_SETFL, 0) != 0) return os_error(what);  // a FIFO (process substitution) may wait
  return read_all(fd.get(), limit, what);
}

namespace {
// A regular file of ours or root's, without the permissions in `too_open`; never waits.
Result<SecretBytes> read_own_file(const std::filesystem::path &path, const std::string &what,
                                  mode_t too_open) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) {
    if (errno == ELOOP) return fail(ErrorCode::kPermissionDenied, what + " is a symbolic link");
    return os_error(what);
  }
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return os_error(what);
  if (!S_ISREG(st.st_mode)) return fail(ErrorCode::kPermissionDenied, what + " is not a file");
  if (st.st_uid != ::geteuid() && st.st_uid != 0)
    return fail(ErrorCode::kPermissionDenied, what + " belongs to another user");
  if (st.st_mode & too_open)
    return fail(ErrorCode::kPermissionDenied,
                what + (too_open & 044 ? " can be read by others" : " can be changed by others"),
                too_open & 044 ? "chmod 0400 " + path.string() : "chmod go-w " + path.string());
  return read_all(fd.get(), 1u << 20, what);
}
}  // namespace

Result<SecretBytes> read_key_file(const std::filesystem::path &path) {
  const std::string what = "key file " + path.string();
  auto key = read_own_file(path, what, 077);
  if (!key && key.error().code == ErrorCode::kNotFound)
    return fail(ErrorCode::kFailedPrecondition, what + " is missing",
                "Run `coffer init` if this home is new; else restore it from a backup.");
  if (!key) return key;
  if (key->size() != 32)
    return fail(ErrorCode::kDataLoss, what + " has " + std::to_string(key->size()) + " bytes instead of 32",
                "Restore it from a backup.");
  return key;
}

Result<std::string> read_trusted_file(const std::filesystem::path &path) {
  COFFER_TRY(const SecretBytes text, read_own_file(path, path.string(), 022));
  return std::string(as_text(text.reveal()));  // no secret: public keys, and names
}

namespace {
// The terminal while it does not echo; a signal that ends us gets it back as it was.
termios saved_terminal;
int terminal_fd = -1;
void restore_and_die(int signal) {
  tcsetattr(terminal_fd, TCSAFLUSH, &saved_terminal);
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}
}  // namespace

Result<SecretBytes> ask(std::string_view prompt) {
  constexpr uint8_t kEndOfInput = 4, kBackspace = 8, kLineErase = 21, kDelete = 127;
  constexpr int kPasteGapMs = 50;
  const Fd tty(::open("/dev/tty", O_RDWR | O_CLOEXEC));
  if (!tty || tcgetattr(tty.get(), &saved_terminal) != 0)
    return fail(ErrorCode::kInvalidArgument, "there is no terminal to ask for a value",
                "Use NAME=- with standard input, or --from-file NAME=PATH.");
  terminal_fd = tty.get();
  COFFER_CHECK(write_all(tty.get(), as_bytes(prompt), "terminal"));
  const auto old_int = ::signal(SIGINT, restore_and_die), old_term = ::signal(SIGTERM, restore_and_die);
  // Byte by byte: the terminal's own line editing would cut a line at 4,095 bytes without a word.
  termios silent = saved_terminal;
  silent.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON);
  silent.c_cc[VMIN] = 1;
  silent.c_cc[VTIME] = 0;
  tcsetattr(tty.get(), TCSAFLUSH, &silent);
  SecretBytes line(kMaxValue);
  size_t used = 0;
  const auto read_line = [&]() -> Result<void> {
    for (;;) {
      uint8_t byte = 0;
      const ssize_t n = ::read(tty.get(), &byte, 1);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return os_error("terminal");
      if (n == 0 || byte == kEndOfInput)
        return fail(ErrorCode::kCancelled, "no value was given; nothing was stored");
      if (byte == '\n') return {};
      if (byte == kBackspace || byte == kDelete) {
        while (used > 0 && (line.reveal()[used - 1] & 0xc0) == 0x80) --used;  // the rest of a UTF-8 character
        if (used > 0) --used;
      } else if (byte == kLineErase) {
        used = 0;
      } else if (used == line.size()) {
        return fail(ErrorCode::kInvalidArgument, "the value is over 1,048,576 bytes");
      } else {
        line.fill()[used++] = byte;
      }
    }
  };
  auto read = read_line();
  pollfd more{tty.get(), POLLIN, 0};
  if (read && ::poll(&more, 1, kPasteGapMs) > 0)
    read = fail(ErrorCode::kInvalidArgument, "the value has more than one line; nothing was stored",
                "Use NAME=- < FILE, or --from-file NAME=PATH.");
  // Flushed: what was typed or pasted behind it must not reach the shell.
  tcsetattr(tty.get(), TCSAFLUSH, &saved_terminal);
  ::signal(SIGINT, old_int);
  ::signal(SIGTERM, old_term);
  COFFER_CHECK(write_all(tty.get(), as_bytes("\n"), "terminal"));
  if (!read) return std::unexpected(read.error());
  return SecretBytes::copy_of(line.reveal().first(used));
}

bool confirm(std::string_view question) {
  if (!isatty(STDIN_FILENO)) return false;
  std::cerr << question << " [y/N] " << std::flush;
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "yes";
}

Result<void> write_new_file(const std::filesystem::path &path, ByteSpan content, unsigned mode) {
  return write_file(path, content, mode, false);
}
Result<void> replace_file(const std::filesystem::path &path, ByteSpan content, unsigned mode) {
  return write_file(path, content, mode, true);
}

}  // namespace coffer::cli
