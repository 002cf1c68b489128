// Everything a user of the library needs.
#pragma once

#include "purekv/bench.h"
#include "purekv/dtype.h"
#include "purekv/error.h"
#include "purekv/media.h"
#include "purekv/session.h"
