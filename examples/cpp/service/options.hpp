// The command line.
#pragma once

#include <string>

#include "explain.hpp"
#include "http.hpp"

struct Options {
  std::string host = "127.0.0.1";
  int port = 8080;
  std::size_t workers = 0;  ///< 0: one for each processor.
  std::size_t queue = 64;
  ExplainOptions explain;
  HttpOptions http;
  bool help = false;
};

/// Reads the command line. Throws std::invalid_argument with a sentence for the user.
Options parse_options(int count, const char* const* words);

/// What --help prints.
std::string usage();
