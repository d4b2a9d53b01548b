#include "coffer/base/names.h"

#include <gmock/gmock.h>

namespace coffer {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Names, AppNames) {
  for (const std::string &good : {std::string("a"), std::string("0"), std::string("web"),
                                  std::string("my-app-2"), std::string("a--b"), std::string(63, 'a')})
    EXPECT_TRUE(valid_app_name(good)) << good;
  for (const std::string &bad :
       {std::string(), std::string("../etc"), std::string("a/b"), std::string("."), std::string(".."),
        std::string(64, 'a'), std::string(300, 'a'), std::string("a%2fb"), std::string("-a"),
        std::string("a-"), std::string("A"), std::string("a_b"), std::string("a b"), std::string("a\n"),
        std::string("a\0", 2), std::string("\xd0\xb0pp"),
        std::string("a.b")}) {  // the first letter of the last but one is Cyrillic
    EXPECT_FALSE(valid_app_name(bad)) << bad;
    EXPECT_FALSE(check_app_name(bad).has_value()) << bad;
  }
}

TEST(Names, SecretNames) {
  for (const std::string &good : {std::string("A"), std::string("_"), std::string("a_B9"),
                                  std::string("COFFER"), std::string("coffer_x"), std::string(255, 'A')})
    EXPECT_TRUE(valid_secret_name(good)) << good;
  for (const std::string &bad :
       {std::string(), std::string("1A"), std::string("A-B"), std::string("A B"), std::string("A=B"),
        std::string("A\0", 2), std::string("A\n"), std::string("\xc3\x89"), std::string(256, 'A'),
        std::string("A.B"), std::string("COFFER_"), std::string("COFFER_HOME")})
    EXPECT_FALSE(valid_secret_name(bad)) << bad;
}

TEST(Names, AnErrorDoesNotRepeatTheText) {
  const std::string pasted = "Zebrafish-and-other-values";
  EXPECT_THAT(check_app_name(pasted).error().message, Not(HasSubstr("Zebrafish")));
  EXPECT_THAT(check_secret_name(pasted).error().message, Not(HasSubstr("Zebrafish")));
  EXPECT_THAT(check_guest_path(pasted).error().message, Not(HasSubstr("Zebrafish")));
  EXPECT_THAT(parse_mode(pasted).error().message, Not(HasSubstr("Zebrafish")));
  EXPECT_THAT(check_secret_name("COFFER_HOME").error().message, HasSubstr("reserved"));
}

TEST(Names, GuestPaths) {
  for (const std::string &good :
       {std::string("/a"), std::string("/run/secrets/tls.key"), std::string("/...a/..b"),
        std::string("/process"), std::string("/device/x"), std::string("/a/.coffer"),
        std::string("/.cofferx"), std::string("/\xc3\xa9/\xe2\x82\xac/\xf0\x9f\x98\x80"),
        std::string("/a b/c=d"), "/" + std::string(255, 'x')})
    EXPECT_TRUE(check_guest_path(good).has_value()) << good;
  std::string longest;
  while (longest.size() < 4095)
    longest += "/" + std::string(std::min<size_t>(254, 4095 - longest.size() - 1), 'x');
  EXPECT_EQ(longest.size(), 4095u);
  EXPECT_TRUE(check_guest_path(longest).has_value());
  for (const std::string &bad : {std::string(),
                                 std::string("relative"),
                                 std::string("./a"),
                                 std::string("/a/../b"),
                                 std::string("/.."),
                                 std::string("/a/.."),
                                 std::string("/a/./b"),
                                 std::string("//a"),
                                 std::string("/a//b"),
                                 std::string("/a/"),
                                 std::string("/a\0b", 4),
                                 std::string("/a\nb"),
                                 std::string("/a\tb"),
                                 std::string("/a\x7f"),
                                 std::string("/a:b"),
                                 std::string("/a,b"),
                                 longest + "x",
                                 std::string("/"),
                                 std::string("/proc"),
                                 std::string("/proc/1/environ"),
                                 std::string("/sys/x"),
                                 std::string("/dev/shm/x"),
                                 std::string("/.coffer"),
                                 std::string("/.coffer/init"),
                                 std::string("/a\xff"),
                                 std::string("/a\xc0\xaf"),
                                 std::string("/\xed\xa0\x80"),
                                 std::string("/\xe2\x82"),
                                 "/" + std::string(256, 'x')})
    EXPECT_FALSE(check_guest_path(bad).has_value()) << bad.substr(0, 40);
}

TEST(Names, NoTwoPathsAreTheSameOrOneTheFolderOfAnother) {
  const auto check = [](std::vector<std::string> paths) { return check_guest_paths(paths); };
  EXPECT_TRUE(check({}).has_value());
  EXPECT_TRUE(check({"/a/b", "/a/c", "/a/bc", "/a/b.x", "/a/b-x/c", "/b"}).has_value());
  EXPECT_THAT(check({"/a/b", "/c", "/a/b"}).error().message, HasSubstr("/a/b is given twice"));
  EXPECT_THAT(check({"/a/b/c", "/a/b-x", "/a/b"}).error().message, HasSubstr("/a/b would be both a file"));
  EXPECT_FALSE(check({"/a/b/c/d", "/a/b.c", "/a/b c", "/a/b"}).has_value());
  EXPECT_FALSE(check({"/a", "b"}).has_value());
}

TEST(Names, ModesAreOctalAndAtMost0777) {
  for (const auto &[text, mode] : std::vector<std::pair<std::string, uint32_t>>{
           {"0400", 0400}, {"644", 0644}, {"0o600", 0600}, {"0", 0}, {"0777", 0777}, {"000400", 0400}})
    EXPECT_EQ(parse_mode(text).value(), mode) << text;
  for (const char *bad : {"", "04755", "01777", "-1", "-0400", "1000", "0800", "0x1ff", "rw", "0o", "0400 ",
                          " 400", "00000000400", "37777777777777777400", "0b11"})
    EXPECT_FALSE(parse_mode(bad).has_value()) << bad;
}

TEST(Names, AValueFitsTheEnvironmentUpTo131071BytesWithoutNul) {
  EXPECT_TRUE(fits_env("A", {}));
  EXPECT_TRUE(fits_env("NAME", Bytes(131'071 - 5, 'x')));
  EXPECT_FALSE(fits_env("NAME", Bytes(131'071 - 4, 'x')));
  EXPECT_FALSE(fits_env("A", Bytes{'x', 0}));
}

TEST(Names, Base64IsWhatInjectFileDecodes) {
  for (const char *good :
       {"", " \n", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", " Z m\t9\r\nv \n", "Z\ng=\n=\n", "+/+/"})
    EXPECT_TRUE(is_base64(as_bytes(good))) << good;
  for (const char *bad : {"Z", "Zg", "Zg=", "Zm9vY", "Zg===", "=", "Zg==Zg==", "Zm9=v", "Zm9v*mFy",
                          "Zm9v_w==", "Zm9v\xc3\xa9", "Zm8==", "Zm9v===="})
    EXPECT_FALSE(is_base64(as_bytes(bad))) << bad;
  EXPECT_FALSE(is_base64(Bytes{'Z', 'm', '9', 'v', 0}));
}

}  // namespace
}  // namespace coffer
