#include "boot_frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {
using testing::AnyOf;
using testing::Eq;

constexpr std::string_view kId = "0123-instance";

std::string frame(const std::function<void(coffer_boot_writer *)> &put, std::string_view id = kId,
                  coffer_boot_error expected = COFFER_BOOT_OK) {
  coffer_boot_writer w;
  coffer_boot_begin(&w, nullptr, 0, id.data(), id.size());
  put(&w);
  EXPECT_EQ(coffer_boot_end(&w), expected);
  std::string out(w.used, 'x');
  coffer_boot_begin(&w, reinterpret_cast<uint8_t *>(out.data()), out.size(), id.data(), id.size());
  put(&w);
  EXPECT_EQ(coffer_boot_end(&w), expected);
  EXPECT_EQ(w.used, out.size()) << "measured and written differ";
  return out;
}
void env(coffer_boot_writer *w, std::string_view name, std::string_view value) {
  coffer_boot_put_env(w, name.data(), name.size(), value.data(), value.size());
}
void file(coffer_boot_writer *w, std::string_view path, std::string_view value, uint32_t mode = 0400,
          uint32_t flags = 0, uint32_t uid = 0, uint32_t gid = 0) {
  coffer_boot_put_file(w, path.data(), path.size(), value.data(), value.size(), mode, flags, uid, gid);
}
std::string example() {
  return frame([](coffer_boot_writer *w) {
    env(w, "A", "1");
    env(w, "DB_URL", "line\nline=\x01\xff");
    env(w, "EMPTY", "");
    file(w, "/etc/app/key", std::string_view("\0\1\2", 3), 0440, COFFER_BOOT_OWNER, 1000, 2000);
    file(w, "/etc/empty", "");
  });
}

coffer_boot_error check(std::string data, std::string_view id = kId) {
  coffer_boot_frame out;
  return coffer_boot_check(reinterpret_cast<uint8_t *>(data.data()), data.size(), id.data(), id.size(), &out);
}

// Feeds `data` as it is, then ends the input unless `keep_open`.
coffer_boot_error read_back(const std::string &data, coffer_boot_frame *out, int timeout_ms = 5000,
                            bool keep_open = false, std::string_view id = kId) {
  int fds[2];
  EXPECT_EQ(::pipe(fds), 0);
  std::thread writer([&] {
    for (size_t done = 0; done < data.size();) {
      const ssize_t n = ::write(fds[1], data.data() + done, data.size() - done);
      if (n <= 0) break;
      done += static_cast<size_t>(n);
    }
    if (!keep_open) ::close(fds[1]);
  });
  const coffer_boot_error error = coffer_boot_read(fds[0], id.data(), id.size(), timeout_ms, out);
  writer.join();
  ::close(fds[0]);
  if (keep_open) ::close(fds[1]);
  return error;
}
coffer_boot_error read_only(const std::string &data, int timeout_ms = 5000, bool keep_open = false) {
  coffer_boot_frame out;
  const coffer_boot_error error = read_back(data, &out, timeout_ms, keep_open);
  coffer_boot_wipe(&out);
  return error;
}

void set32(std::string &data, size_t at, uint32_t v) {
  for (int i = 0; i < 4; ++i) data[at + static_cast<size_t>(i)] = static_cast<char>(v >> (8 * i));
}

TEST(BootFrame, ReadsBackWhatWasWritten) {
  coffer_boot_frame got;
  ASSERT_EQ(read_back(example(), &got), COFFER_BOOT_OK);
  EXPECT_EQ(got.n_env, 3u);
  EXPECT_EQ(got.n_files, 2u);
  std::vector<coffer_boot_entry> all;
  coffer_boot_entry e;
  for (size_t at = 0; coffer_boot_next(&got, &at, &e);) all.push_back(e);
  ASSERT_EQ(all.size(), 5u);
  EXPECT_STREQ(all[0].name, "A=1");
  EXPECT_STREQ(all[1].name, "DB_URL=line\nline=\x01\xff");
  EXPECT_STREQ(all[2].name, "EMPTY=");
  EXPECT_STREQ(all[3].name, "/etc/app/key");
  EXPECT_EQ(std::string_view(reinterpret_cast<char *>(all[3].value), all[3].value_size),
            std::string_view("\0\1\2", 3));
  EXPECT_EQ(all[3].mode, 0440u);
  EXPECT_EQ(all[3].flags, COFFER_BOOT_OWNER);
  EXPECT_EQ(all[3].uid, 1000u);
  EXPECT_EQ(all[3].gid, 2000u);
  EXPECT_STREQ(all[4].name, "/etc/empty");
  EXPECT_EQ(all[4].value_size, 0u);
  coffer_boot_wipe(&got);
  EXPECT_EQ(got.data, nullptr);
}

TEST(BootFrame, BytesAreThoseOfTheDocumentation) {
  const std::string got = frame(
      [](coffer_boot_writer *w) {
        env(w, "A", "hi");
        file(w, "/k", "v", 0400);
      },
      "m1");
  const unsigned char expected[] = {
      'C', 'o', 'f', 'f', 'e', 'r', 'B', 'F', 1,   0,   0, 0,   75,  0,   0,   0,  // magic, version, length
      2,   0,   0,   0,   'm', '1',                                                // instance
      1,   0,   0,   0,   1,   0,   0,   0,   2,   0,   0, 0,   'A', '=', 'h', 'i', 0,  // env
      2,   0,   0,   0,   2,   0,   0,   0,   1,   0,   0, 0,   0,   1,   0,   0,   0,
      0,   0,   0,                                               // file: sizes, mode, flags
      0,   0,   0,   0,   0,   0,   0,   0,   '/', 'k', 0, 'v',  // uid, gid, path, value
      0,   0,   0,   0};                                         // end
  const std::string want(reinterpret_cast<const char *>(expected), sizeof expected);
  EXPECT_EQ(got, want);
}

TEST(BootFrame, EmptyFrameIsGood) {
  EXPECT_EQ(read_only(frame([](coffer_boot_writer *) {})), COFFER_BOOT_OK);
}

TEST(BootFrame, TruncatedAtEveryByteIsRefused) {
  const std::string whole = example();
  EXPECT_EQ(read_only(""), COFFER_BOOT_NO_FRAME);
  for (size_t size = 1; size < whole.size(); ++size) {
    EXPECT_EQ(read_only(whole.substr(0, size)), COFFER_BOOT_TRUNCATED) << size;
    EXPECT_EQ(check(whole.substr(0, size)), COFFER_BOOT_TRUNCATED) << size;
  }
}

TEST(BootFrame, EveryChangedByteIsRefusedOrKeepsTheGrammar) {
  // The frame carries no checksum: a pipe does not flip bits.  What must hold is that nothing is read outside
  // (the sanitizers watch) and that a changed header never passes.
  const std::string whole = example();
  for (size_t i = 0; i < whole.size(); ++i)
    for (const int bit : {0, 1, 5, 7}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
      const coffer_boot_error error = check(changed);
      if (i < COFFER_BOOT_HEADER_SIZE + 4 + kId.size()) {
        EXPECT_NE(error, COFFER_BOOT_OK) << i;
      }
    }
}

TEST(BootFrame, WrongHeaderIsNamed) {
  std::string data = example();
  data[0] = 'c';
  EXPECT_EQ(read_only(data), COFFER_BOOT_BAD_MAGIC);
  data = example();
  data[8] = 2;
  EXPECT_EQ(read_only(data), COFFER_BOOT_BAD_VERSION);
  data = example();
  set32(data, 12, COFFER_BOOT_MAX_SIZE + 1);
  EXPECT_EQ(read_only(data), COFFER_BOOT_TOO_LARGE);
  set32(data, 12, 0xffffffff);
  EXPECT_EQ(read_only(data), COFFER_BOOT_TOO_LARGE);
  set32(data, 12, COFFER_BOOT_MIN_SIZE - 1);
  EXPECT_EQ(read_only(data), COFFER_BOOT_MALFORMED);
}

TEST(BootFrame, FrameOfAnotherInstanceIsRefused) {
  EXPECT_EQ(check(example(), "another"), COFFER_BOOT_WRONG_INSTANCE);
  EXPECT_EQ(check(example(), "0123-instancf"), COFFER_BOOT_WRONG_INSTANCE);
  EXPECT_EQ(check(example(), "0123-instance1"), COFFER_BOOT_WRONG_INSTANCE);
  EXPECT_EQ(check(example(), ""), COFFER_BOOT_WRONG_INSTANCE);
}

TEST(BootFrame, BytesBehindTheEndInsideTheLengthAreRefused) {
  std::string data = example() + "x";
  set32(data, 12, static_cast<uint32_t>(data.size()));
  EXPECT_EQ(read_only(data), COFFER_BOOT_MALFORMED);
  EXPECT_EQ(check(example() + "x"), COFFER_BOOT_MALFORMED);
}

TEST(BootFrame, NothingBehindTheFrameIsRead) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  const std::string data = example() + "rest";
  ASSERT_EQ(::write(fds[1], data.data(), data.size()), static_cast<ssize_t>(data.size()));
  coffer_boot_frame got;
  EXPECT_EQ(coffer_boot_read(fds[0], kId.data(), kId.size(), 1000, &got), COFFER_BOOT_OK);
  coffer_boot_wipe(&got);
  char rest[8];
  EXPECT_EQ(::read(fds[0], rest, sizeof rest), 4);
  ::close(fds[0]);
  ::close(fds[1]);
}

TEST(BootFrame, FrameThatNeverComesEndsAtTheLimit) {
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(read_only("", 100, true), COFFER_BOOT_TIMEOUT);
  EXPECT_EQ(read_only(example().substr(0, 30), 100, true), COFFER_BOOT_TIMEOUT);
  EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(190));
}

TEST(BootFrame, TrickleDoesNotExtendTheLimit) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  const std::string data = example();
  std::thread writer([&] {
    for (const char c : data) {  // a byte every 20 ms: the whole would take 3 s
      if (::send(fds[1], &c, 1, MSG_NOSIGNAL) != 1) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  coffer_boot_frame got;
  EXPECT_EQ(coffer_boot_read(fds[0], kId.data(), kId.size(), 200, &got), COFFER_BOOT_TIMEOUT);
  ::close(fds[0]);
  writer.join();
  ::close(fds[1]);
}

TEST(BootFrame, FrameInSmallPiecesIsGood) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  const std::string data = example();
  std::thread writer([&] {
    for (const char c : data) EXPECT_EQ(::send(fds[1], &c, 1, MSG_NOSIGNAL), 1);
  });
  coffer_boot_frame got;
  EXPECT_EQ(coffer_boot_read(fds[0], kId.data(), kId.size(), 5000, &got), COFFER_BOOT_OK);
  coffer_boot_wipe(&got);
  writer.join();
  ::close(fds[0]);
  ::close(fds[1]);
}

TEST(BootFrame, LargestFrameIsGoodAndOneByteMoreIsNot) {
  const size_t around = frame([](coffer_boot_writer *w) { file(w, "/f", ""); }).size();
  const std::string fits(COFFER_BOOT_MAX_SIZE - around, 'v');
  EXPECT_EQ(read_only(frame([&](coffer_boot_writer *w) { file(w, "/f", fits); })), COFFER_BOOT_OK);
  coffer_boot_writer w;
  coffer_boot_begin(&w, nullptr, 0, kId.data(), kId.size());
  file(&w, "/f", fits + "v");
  EXPECT_EQ(coffer_boot_end(&w), COFFER_BOOT_TOO_LARGE);
}

TEST(BootFrame, WriterRefusesWhatTheReaderWould) {
  const auto error_of = [](const std::function<void(coffer_boot_writer *)> &put) {
    coffer_boot_writer w;
    coffer_boot_begin(&w, nullptr, 0, kId.data(), kId.size());
    put(&w);
    return coffer_boot_end(&w);
  };
  for (const std::string_view name : {"", "1A", "A-B", "A B", "A=B", "\xc3\x89", "A\n"})
    EXPECT_EQ(error_of([&](coffer_boot_writer *w) { env(w, name, "v"); }), COFFER_BOOT_BAD_NAME) << name;
  EXPECT_EQ(error_of([](coffer_boot_writer *w) { env(w, "A", std::string_view("a\0b", 3)); }),
            COFFER_BOOT_NUL_IN_ENV);
  EXPECT_EQ(error_of([](coffer_boot_writer *w) { env(w, "B", ""), env(w, "A", ""); }), COFFER_BOOT_BAD_ORDER);
  EXPECT_EQ(error_of([](coffer_boot_writer *w) { env(w, "A", ""), env(w, "A", ""); }), COFFER_BOOT_BAD_ORDER);
  EXPECT_EQ(error_of([](coffer_boot_writer *w) { file(w, "/a", ""), env(w, "A", ""); }),
            COFFER_BOOT_BAD_ORDER);
  EXPECT_EQ(error_of([](coffer_boot_writer *w) { file(w, "/b", ""), file(w, "/a", ""); }),
            COFFER_BOOT_BAD_ORDER);
  EXPECT_EQ(error_of([](coffer_boot_writer *w) { file(w, "rel", ""); }), COFFER_BOOT_BAD_PATH);
  EXPECT_EQ(error_of([](coffer_boot_writer *w) { file(w, "/a", "", 01000); }), COFFER_BOOT_MALFORMED);
  EXPECT_EQ(error_of([](coffer_boot_writer *w) { file(w, "/a", "", 0400, 2); }), COFFER_BOOT_MALFORMED);
  EXPECT_EQ(error_of([](coffer_boot_writer *w) { file(w, "/a", "", 0400, 0, 5); }), COFFER_BOOT_MALFORMED);
}

// Frames that a correct writer cannot make.
TEST(BootFrame, ReaderRefusesForgedEntries) {
  const std::string good = frame([](coffer_boot_writer *w) { env(w, "AB", "v"), env(w, "CD", "w"); });
  const size_t first = COFFER_BOOT_HEADER_SIZE + 4 + kId.size();  // kind, name_size, value_size, "AB=v" NUL
  const auto forged = [&](size_t at, char byte) {
    std::string data = good;
    data[at] = byte;
    return check(data);
  };
  EXPECT_EQ(forged(first, 9), COFFER_BOOT_MALFORMED) << "kind";
  EXPECT_EQ(forged(first, 0), COFFER_BOOT_MALFORMED) << "an end before the end";
  EXPECT_EQ(forged(first + 4, 3), COFFER_BOOT_MALFORMED) << "name size";
  EXPECT_EQ(forged(first + 8, 2), COFFER_BOOT_MALFORMED) << "value size";
  EXPECT_EQ(forged(first + 14, '-'), COFFER_BOOT_MALFORMED) << "no =";
  EXPECT_EQ(forged(first + 15, 0), COFFER_BOOT_NUL_IN_ENV);
  EXPECT_EQ(forged(first + 16, 'x'), COFFER_BOOT_MALFORMED) << "no NUL";
  EXPECT_EQ(forged(first + 12, '9'), COFFER_BOOT_BAD_NAME);
  EXPECT_EQ(forged(first + 12, 'Z'), COFFER_BOOT_BAD_ORDER);
  std::string data = good;
  set32(data, first + 4, 0xfffffff0);
  EXPECT_EQ(check(data), COFFER_BOOT_MALFORMED);
  set32(data, first + 4, 2);
  set32(data, first + 8, 0xffffffff);
  EXPECT_EQ(check(data), COFFER_BOOT_MALFORMED);
}

TEST(BootFrame, PathRules) {
  const auto why = [](std::string_view path) { return coffer_boot_path_error(path.data(), path.size()); };
  for (const std::string_view good :
       {"/a", "/etc/app/key.pem", "/..a", "/a...b/.c", "/process", "/device/x", "/a b"})
    EXPECT_EQ(why(good), nullptr) << good;
  for (const std::string_view bad :
       {"",           "/",        "a",          "./a",  "/a/",   "//a",     "/a//b",
        "/a/../b",    "/..",      "/.",         "/a/.", "/proc", "/proc/1", "/sys/x",
        "/dev/shm/x", "/.coffer", "/.coffer/x", "/a:b", "/a,b",  "/a\nb",   "/a\x7f"})
    EXPECT_NE(why(bad), nullptr) << bad;
  EXPECT_NE(why(std::string_view("/a\0b", 4)), nullptr);
  EXPECT_NE(why("/" + std::string(256, 'a')), nullptr);
  std::string long_path;
  while (long_path.size() < 4095)
    long_path += "/" + std::string(std::min<size_t>(200, 4094 - long_path.size()), 'p');
  EXPECT_EQ(why(long_path), nullptr);
  EXPECT_NE(why(long_path + "p"), nullptr);
}

TEST(BootFrame, EveryErrorHasASentence) {
  for (int e = COFFER_BOOT_OK; e <= COFFER_BOOT_MALFORMED; ++e)
    EXPECT_STRNE(coffer_boot_error_text(static_cast<coffer_boot_error>(e)), "the boot frame is not accepted")
        << e;
}

}  // namespace
