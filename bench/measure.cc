// measure: runs two commands in turn, A B A B ..., and prints what they took.
//
//   measure [--pairs N] [--warm-up N] [--before BASH] ::: OURS... [::: PEER...]
//
// {n} in any argument is the number of the pair, so that each run can write something new.  BASH runs before
// each pair and is not counted.  Standard output of all of them goes to /dev/null; the first one that does
// not end with 0 ends the measurement.  One line comes out:
//   ms of OURS, ms of PEER, ratio, MB of OURS, MB of PEER
// Times are medians, the ratio is the median of the ratios of the pairs (both halves of a pair meet the same
// load of the machine), memory is the largest resident set of any run.  Without PEER its columns are "-".
#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

using Command = std::vector<std::string>;

double now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) * 1e3 + double(t.tv_nsec) / 1e6;
}

std::string with_number(std::string text, const std::string &n) {
  for (size_t at = 0; (at = text.find("{n}", at)) != text.npos; at += n.size()) text.replace(at, 3, n);
  return text;
}

struct Samples {
  std::vector<double> ms;
  long rss_kb = 0;
};

void run(const Command &command, int n, Samples *out) {
  Command words;
  for (const std::string &w : command) words.push_back(with_number(w, std::to_string(n)));
  std::vector<char *> argv;
  for (std::string &w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t to_null;
  posix_spawn_file_actions_init(&to_null);
  posix_spawn_file_actions_addopen(&to_null, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);

  const double start = now_ms();
  pid_t pid = 0;
  int status = 0;
  rusage used{};
  const int error = posix_spawnp(&pid, argv[0], &to_null, nullptr, argv.data(), environ);
  if (!error) wait4(pid, &status, 0, &used);
  const double end = now_ms();
  posix_spawn_file_actions_destroy(&to_null);
  if (error || status != 0) {
    std::fprintf(stderr, "measure: %s failed: %s\n", argv[0], error ? std::strerror(error) : "not 0");
    std::exit(1);
  }
  if (!out) return;
  out->ms.push_back(end - start);
  out->rss_kb = std::max(out->rss_kb, used.ru_maxrss);
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const size_t half = v.size() / 2;
  return v.size() % 2 ? v[half] : (v[half - 1] + v[half]) / 2;
}

[[noreturn]] void usage() {
  std::fputs("usage: measure [--pairs N] [--warm-up N] [--before BASH] ::: OURS... [::: PEER...]\n", stderr);
  std::exit(2);
}

}  // namespace

int main(int argc, char **argv) {
  int pairs = 40, warm_up = 3;
  std::string before;
  int at = 1;
  for (; at + 1 < argc && std::strcmp(argv[at], ":::") != 0; at += 2) {
    const std::string option = argv[at];
    if (option == "--pairs")
      pairs = std::atoi(argv[at + 1]);
    else if (option == "--warm-up")
      warm_up = std::atoi(argv[at + 1]);
    else if (option == "--before")
      before = argv[at + 1];
    else
      usage();
  }
  std::vector<Command> commands;
  for (; at < argc; ++at) {
    if (std::strcmp(argv[at], ":::") == 0)
      commands.emplace_back();
    else if (commands.empty())
      usage();
    else
      commands.back().push_back(argv[at]);
  }
  if (commands.empty() || commands.size() > 2 || pairs < 1) usage();
  for (const Command &c : commands)
    if (c.empty()) usage();

  Samples samples[2];
  for (int n = 0; n < warm_up + pairs; ++n) {
    if (!before.empty()) run({"bash", "-c", before}, n, nullptr);
    for (size_t i = 0; i < commands.size(); ++i) run(commands[i], n, n < warm_up ? nullptr : &samples[i]);
  }
  if (commands.size() == 1) {
    std::printf("%.2f - - %.1f -\n", median(samples[0].ms), double(samples[0].rss_kb) / 1024);
    return 0;
  }
  std::vector<double> ratios;
  for (size_t i = 0; i < samples[0].ms.size(); ++i) ratios.push_back(samples[0].ms[i] / samples[1].ms[i]);
  std::printf("%.2f %.2f %.2f %.1f %.1f\n", median(samples[0].ms), median(samples[1].ms), median(ratios),
              double(samples[0].rss_kb) / 1024, double(samples[1].rss_kb) / 1024);
  return 0;
}
