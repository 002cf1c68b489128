// Everything a user of the library needs.
#pragma once

#include "purekv/bench.h"
#include "purekv/calibrate.h"
#include "purekv/dtype.h"
#include "purekv/error.h"
#include "purekv/media.h"
#include "purekv/profile.h"
#include "purekv/session.h"
