#include "progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "coffer/base/text.h"
#include "output.h"

namespace coffer::cli {
namespace {

using namespace std::chrono_literals;

struct Size {
  size_t rows = 24, columns = 80;
};
Size terminal_size() {
  winsize w{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &w) != 0 || w.ws_row < 4 || w.ws_col < 20) return {};
  return {w.ws_row, w.ws_col};
}

std::string seconds(std::chrono::steady_clock::duration d) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(d).count();
  return std::to_string(ms / 1000) + "." + std::to_string(ms % 1000 / 100) + " s";
}

}  // namespace

Progress::Progress(bool live) : live_(live) {
  if (live_) set_drawing([this] { end(); });
}

Progress::~Progress() {
  if (live_) set_drawing({});
  end();
}

void Progress::tell(std::string_view machine, std::string_view step) {
  const std::lock_guard lock(mutex_);
  if (!live_ || ends_)
    return print_progress(machine.empty() ? std::string(step)
                                          : "Machine " + std::string(machine) + ": " + std::string(step));
  const auto now = Clock::now();
  if (machine.empty()) {
    head_ = step;
  } else {
    auto at = std::ranges::find(rows_, machine, &Row::machine);
    if (at == rows_.end()) at = rows_.insert(rows_.end(), Row{std::string(machine), {}, now, now});
    at->step = step;
    at->changed = now;
  }
  draw();
  if (!ticker_.joinable()) ticker_ = std::thread([this] { tick(); });
}

// The times go on.
void Progress::tick() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, 500ms, [this] { return ends_; })) draw();
}

void Progress::draw() {
  const Size size = terminal_size();
  std::string out;
  if (drawn_) out = "\x1b[" + std::to_string(drawn_) + "A\r";
  drawn_ = 0;
  const auto line = [&](const std::string &text) {
    out += printable(text, 4096).substr(0, size.columns - 1) + "\x1b[K\n";
    ++drawn_;
  };
  if (!head_.empty()) line(head_);
  // The ones that changed last, where there are more than lines.
  std::vector<const Row *> shown;
  for (const Row &r : rows_) shown.push_back(&r);
  const size_t most = size.rows - 3;
  if (shown.size() > most) {
    std::ranges::stable_sort(shown, std::greater<>(), [](const Row *r) { return r->changed; });
    shown.resize(most);
    std::ranges::sort(shown);
  }
  const auto now = Clock::now();
  for (const Row *r : shown) {
    const bool done = r->step.starts_with("good") || r->step == "started";
    line("  " + r->machine + "  " + seconds((done ? r->changed : now) - r->since) + "  " + r->step);
  }
  if (shown.size() < rows_.size()) line("  and " + std::to_string(rows_.size() - shown.size()) + " more");
  out += "\x1b[J";
  std::fwrite(out.data(), 1, out.size(), stderr);
  std::fflush(stderr);
}

void Progress::end() {
  {
    const std::lock_guard lock(mutex_);
    if (!ticker_.joinable()) return;
    ends_ = true;
  }
  wake_.notify_all();
  ticker_.join();
  const std::lock_guard lock(mutex_);
  ticker_ = {};
  ends_ = false;
  head_.clear();
  rows_.clear();
  drawn_ = 0;
}

}  // namespace coffer::cli
