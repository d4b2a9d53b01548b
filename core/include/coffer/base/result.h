// Result<T>: every failure in the core is a value.  Exceptions stop where foreign code throws them.
#ifndef COFFER_BASE_RESULT_H
#define COFFER_BASE_RESULT_H

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace coffer {

// Closed set; the numbers are those of the plugin ABI (gRPC's).  Programs act on codes, never on texts.
enum class ErrorCode : int32_t {
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// Invariant: `message` names things (App, secret, file, field, position) and never holds a value.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  std::string remedy = {};  // what the reader can do about it; may be empty
  // One word, a literal, for whoever counts refusals: "expired".  Empty: the code says enough.
  std::string_view reason = {};

  // Adds what was being done, on the way up: "App web: manifest 7: ...".
  Error in(std::string_view context) && {
    message = std::string(context) + ": " + message;
    return std::move(*this);
  }
};

template <class T>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(ErrorCode code, std::string message, std::string remedy = {}) {
  return std::unexpected(Error{code, std::move(message), std::move(remedy)});
}

}  // namespace coffer

#define COFFER_CONCAT_(a, b) a##b
#define COFFER_CONCAT(a, b) COFFER_CONCAT_(a, b)

// COFFER_TRY(auto x, f()): x is the value, or the error is returned from here.
#define COFFER_TRY(decl, expr) COFFER_TRY_(COFFER_CONCAT(result_, __LINE__), decl, expr)
#define COFFER_TRY_(tmp, decl, expr)                        \
  auto tmp = (expr);                                        \
  if (!tmp) return std::unexpected(std::move(tmp).error()); \
  decl = *std::move(tmp)

// The same for Result<void>, and where the value does not matter.
#define COFFER_CHECK(expr)                                                                \
  do {                                                                                    \
    if (auto check_ = (expr); !check_) return std::unexpected(std::move(check_).error()); \
  } while (0)

#endif
