// Spearman's rank correlation: whether two scores order the same tokens alike.
#pragma once

#include <span>
#include <vector>

namespace purekv {

// Ranks from 0, equal values sharing the mean of their ranks, minus the mean rank.
std::vector<double> CentredRanks(std::span<const double> values);

// Correlation of two lists of CentredRanks of equal length, -1 .. 1; 0 when one of them is constant.
double Correlation(std::span<const double> a, std::span<const double> b);

}  // namespace purekv
