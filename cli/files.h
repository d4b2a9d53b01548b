// Files and terminals, for values and keys: nothing passes through ordinary memory.
#ifndef COFFER_CLI_FILES_H
#define COFFER_CLI_FILES_H

#include <filesystem>
#include <functional>
#include <string>
#include <utility>

#include "coffer/base/result.h"
#include "coffer/base/secret_bytes.h"

namespace coffer::cli {

// Exact bytes; kInvalidArgument when there are more than `limit`.  `what` names the source in errors; a
// file's is its path, but where a path is expected a value may have been typed.
Result<SecretBytes> read_stdin(size_t limit, std::string_view what);
Result<SecretBytes> read_file(const std::filesystem::path &, size_t limit, std::string what = {});
// A key file: regular, ours or root's, readable by its owner only, exactly 32 bytes.
Result<SecretBytes> read_key_file(const std::filesystem::path &);
// A file that is believed: regular, ours or root's, writable by nobody else.  kNotFound when there is none.
Result<std::string> read_trusted_file(const std::filesystem::path &);
// Asks on the terminal, without echo.
Result<SecretBytes> ask(std::string_view prompt);
// A yes/no question; no terminal: false.
bool confirm(std::string_view question);

// Writes a new file, durable when it returns; kAlreadyExists when there is one.
Result<void> write_new_file(const std::filesystem::path &, ByteSpan content, unsigned mode);
// The same, in place of what is there.
Result<void> replace_file(const std::filesystem::path &, ByteSpan content, unsigned mode);
// The same for what comes piece by piece: `fill` is given what writes the next piece.
using Write = std::function<Result<void>(ByteSpan)>;
Result<void> write_file_in_pieces(const std::filesystem::path &, unsigned mode, bool replace,
                                  const std::function<Result<void>(const Write &)> &fill);

// Durable when it returns; one that is not there is no error.
Result<void> remove_file(const std::filesystem::path &);

// A file that is read piece by piece.
class InputFile {
 public:
  static Result<InputFile> open(const std::filesystem::path &);
  InputFile(InputFile &&o) noexcept : fd_(std::exchange(o.fd_, -1)), what_(std::move(o.what_)) {}
  InputFile &operator=(InputFile &&) = delete;
  ~InputFile();
  // Fewer bytes than asked for: the end.
  Result<size_t> read(std::span<uint8_t>);

 private:
  InputFile(int fd, std::string what) : fd_(fd), what_(std::move(what)) {}
  int fd_;
  std::string what_;
};

}  // namespace coffer::cli
#endif
