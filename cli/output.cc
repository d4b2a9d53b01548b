#include "output.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "coffer/base/clock.h"
#include "coffer/base/text.h"

namespace coffer::cli {

int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kNotFound:
      return 3;
    case ErrorCode::kAlreadyExists:
    case ErrorCode::kAborted:
    case ErrorCode::kFailedPrecondition:
      return 4;
    case ErrorCode::kPermissionDenied:
    case ErrorCode::kUnauthenticated:
      return 5;
    case ErrorCode::kUnavailable:
    case ErrorCode::kDeadlineExceeded:
    case ErrorCode::kResourceExhausted:
      return 6;
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kOutOfRange:
      return 7;
    case ErrorCode::kCancelled:
      return 130;
    default:
      return 1;
  }
}

namespace {
std::function<void()> end_drawing;
void write_line(std::FILE *to, std::string_view a, std::string_view b) {
  std::fwrite(a.data(), 1, a.size(), to);
  std::fwrite(b.data(), 1, b.size(), to);
  std::fputc('\n', to);
}
void result_line(std::FILE *to, std::string_view a, std::string_view b) {
  if (end_drawing) end_drawing();
  write_line(to, a, b);
}
}  // namespace

void set_drawing(std::function<void()> end) { end_drawing = std::move(end); }

void print_error(const Error &e) {
  std::fflush(stdout);
  result_line(stderr, "Error: ", printable(e.message, 4096));
  if (!e.remedy.empty()) write_line(stderr, "", printable(e.remedy, 4096));
}
void print_warning(std::string_view text) { result_line(stderr, "Warning: ", printable(text, 4096)); }
void print(std::string_view line) { result_line(stdout, line, ""); }
void print_json(const JsonWriter &j) { print(j.str()); }
void print_progress(std::string_view line) { write_line(stderr, "", printable(line, 4096)); }

void print_table(const std::vector<std::vector<std::string>> &rows) {
  std::vector<size_t> width;
  for (const auto &row : rows)
    for (size_t i = 0; i < row.size(); ++i) {
      if (width.size() <= i) width.push_back(0);
      width[i] = std::max(width[i], row[i].size());
    }
  std::string out;
  for (const auto &row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      out += row[i];
      if (i + 1 < row.size()) out.append(width[i] - row[i].size() + 2, ' ');
    }
    out += '\n';
  }
  if (end_drawing) end_drawing();
  std::fwrite(out.data(), 1, out.size(), stdout);
}

std::string age(uint64_t since_ms) {
  const uint64_t now = now_ms();
  const uint64_t s = now > since_ms ? (now - since_ms) / 1000 : 0;
  if (s < 120) return std::to_string(s) + "s ago";
  if (s < 2 * 3600) return std::to_string(s / 60) + "m ago";
  if (s < 2 * 86400) return std::to_string(s / 3600) + "h ago";
  return std::to_string(s / 86400) + "d ago";
}

bool stdout_is_terminal() { return isatty(STDOUT_FILENO) == 1; }
bool stderr_is_terminal() { return isatty(STDERR_FILENO) == 1; }
bool flush_stdout() { return std::fflush(stdout) == 0 && !std::ferror(stdout); }

}  // namespace coffer::cli
