#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <concepts>
#include <cstring>
#include <sstream>

#include "coffer/base/codec.h"
#include "coffer/base/secret_bytes.h"

namespace coffer {
namespace {

template <class T>
concept Printable = requires(std::ostream &o, const T &t) { o << t; };
template <class T>
concept Comparable = requires(const T &a, const T &b) { a == b; };

// Each line fails to compile the day somebody opens that door.
static_assert(!std::copyable<SecretBytes>);
static_assert(!Printable<SecretBytes> && Printable<int>);
static_assert(!Comparable<SecretBytes> && Comparable<int>);
static_assert(!std::convertible_to<SecretBytes, std::string>);
static_assert(!std::constructible_from<std::string, SecretBytes>);

TEST(SecretBytes, MovingEmptiesTheSource) {
  SecretBytes a = SecretBytes::copy_of(as_bytes("hunter2"));
  const SecretBytes b = std::move(a);
  EXPECT_EQ(a.size(), 0u);  // NOLINT: the moved-from state is the claim
  EXPECT_EQ(as_text(b.reveal()), "hunter2");
}

TEST(SecretBytes, FreedBlocksAreWipedBeforeTheyAreReused) {
  constexpr std::string_view kCanary = "a canary that must not survive its owner";
  const uint8_t *where;
  {
    const SecretBytes s = SecretBytes::copy_of(as_bytes(kCanary));
    where = s.reveal().data();
  }
  const SecretBytes again(kCanary.size());  // the same class: the arena hands out the block just freed
  ASSERT_EQ(again.reveal().data(), where);
  EXPECT_THAT(again.reveal(), testing::Each(0));
}

TEST(SecretBytes, ContentSurvivesAnySize) {
  for (const size_t size : {0u, 1u, 31u, 32u, 33u, 4096u, 32768u, 32769u, 1048576u}) {
    SecretBytes s(size);
    if (size) std::memset(s.fill().data(), 0x5a, size);
    const SecretBytes t = s.clone();
    EXPECT_EQ(t.size(), size);
    EXPECT_THAT(t.reveal(), testing::Each(0x5a));
  }
}

TEST(SecretBytes, ManyBlocksDoNotOverlap) {
  std::vector<SecretBytes> all;
  for (size_t i = 0; i < 20000; ++i) {
    all.emplace_back(1 + i % 700);
    std::memset(all.back().fill().data(), static_cast<int>(i % 251), all.back().size());
    if (i % 3 == 0) all[i / 2].reset();
  }
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].empty()) continue;
    ASSERT_THAT(all[i].reveal(), testing::Each(static_cast<uint8_t>(i % 251))) << i;
  }
}

TEST(SecretBytes, AForkedChildDoesNotInheritThem) {
  const SecretBytes s = SecretBytes::copy_of(as_bytes("not for children"));
  const pid_t child = fork();
  if (child == 0) {
    unsigned char resident;
    // The page is not mapped in the child: mincore answers ENOMEM.
    void *page = reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(s.reveal().data()) & ~uintptr_t{4095});
    _exit(mincore(page, 4096, &resident) == -1 && errno == ENOMEM ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(SecretBuilder, KeepsEveryByteAcrossGrowth) {
  SecretBuilder b;
  std::string expected;
  for (int i = 0; i < 10000; ++i) {
    const std::string piece(static_cast<size_t>(i % 17), static_cast<char>(i));
    expected += piece;
    b.append(as_bytes(piece));
  }
  const SecretBytes s = b.take();
  EXPECT_EQ(as_text(s.reveal()), expected);
}

TEST(Codec, ReadsBackWhatItWrote) {
  Encoder e;
  e.u8(1).u16(0x0203).u32(0x04050607).u64(0x08090a0b0c0d0e0f).text("name").bytes({}).raw(as_bytes("xyz"));
  Decoder d(e.out());
  EXPECT_EQ(d.u8(), 1);
  EXPECT_EQ(d.u16(), 0x0203);
  EXPECT_EQ(d.u32(), 0x04050607u);
  EXPECT_EQ(d.u64(), 0x08090a0b0c0d0e0fu);
  EXPECT_EQ(d.text(), "name");
  EXPECT_TRUE(d.bytes().empty());
  EXPECT_EQ(as_text(d.raw(3)), "xyz");
  EXPECT_TRUE(d.done());
}

TEST(Codec, ATruncatedOrLongerInputIsNeverDone) {
  Encoder e;
  e.u32(7).text("hello");
  for (size_t n = 0; n < e.out().size(); ++n) {
    Decoder d(ByteSpan(e.out()).first(n));
    d.u32();
    d.bytes();
    EXPECT_FALSE(d.done()) << n;
  }
  Bytes longer = e.out();
  longer.push_back(0);
  Decoder d(longer);
  d.u32();
  d.bytes();
  EXPECT_FALSE(d.done());
}

TEST(Codec, ALengthBeyondTheInputDoesNotAllocate) {
  const Bytes lie = {0xff, 0xff, 0xff, 0xff, 'x'};
  Decoder d(lie);
  EXPECT_TRUE(d.bytes().empty());
  EXPECT_FALSE(d.ok());
}

TEST(Hex, RoundTripsAndRefusesTheRest) {
  const Bytes all = {0x00, 0x7f, 0x80, 0xff};
  EXPECT_EQ(hex(all), "007f80ff");
  EXPECT_EQ(unhex("007f80ff"), all);
  EXPECT_EQ(unhex("0"), std::nullopt);
  EXPECT_EQ(unhex("FF"), std::nullopt);
  EXPECT_EQ(unhex("zz"), std::nullopt);
}

TEST(Base64, MatchesRfc4648Section10) {
  EXPECT_EQ(base64(as_bytes("")), "");
  EXPECT_EQ(base64(as_bytes("f")), "Zg==");
  EXPECT_EQ(base64(as_bytes("fo")), "Zm8=");
  EXPECT_EQ(base64(as_bytes("foo")), "Zm9v");
  EXPECT_EQ(base64(as_bytes("foobar")), "Zm9vYmFy");
}

}  // namespace
}  // namespace coffer
