// Everything a user of the library needs.
#pragma once

#include "purekv/bench.h"
#include "purekv/cache_file.h"
#include "purekv/calibrate.h"
#include "purekv/dtype.h"
#include "purekv/error.h"
#include "purekv/media.h"
#include "purekv/model.h"
#include "purekv/model_info.h"
#include "purekv/options.h"
#include "purekv/profile.h"
#include "purekv/session.h"
#include "purekv/stats.h"
#include "purekv/token_layout.h"
