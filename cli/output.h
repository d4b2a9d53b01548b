// What a person or a script reads.  stdout: results; stderr: errors and progress.
#ifndef COFFER_CLI_OUTPUT_H
#define COFFER_CLI_OUTPUT_H

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "coffer/base/clock.h"
#include "coffer/base/json.h"
#include "coffer/base/result.h"

namespace coffer::cli {

// Documented exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict, 5 not allowed, 6 backend
// unavailable, 7 invalid input, 130 interrupted.
int exit_code(ErrorCode);

// What is drawn on the terminal ends before any of the others but print_progress() writes there; {}: nothing
// is drawn.
void set_drawing(std::function<void()> end);

// "Error: WHAT: WHY" and a line with the remedy, on stderr.
void print_error(const Error &);
void print_warning(std::string_view);
void print(std::string_view line);  // stdout, with a newline
void print_json(const JsonWriter &);
void print_progress(std::string_view line);  // stderr

// Columns aligned with two blanks between; the first row is the head.
void print_table(const std::vector<std::vector<std::string>> &rows);

std::string age(uint64_t since_ms);  // "17s ago"
bool stdout_is_terminal();
bool stderr_is_terminal();
// Everything written reached its reader?
bool flush_stdout();

}  // namespace coffer::cli
#endif
