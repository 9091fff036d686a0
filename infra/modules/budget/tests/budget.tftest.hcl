mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name             = "nexus-test"
  usd_per_month    = 400
  cost_tag         = { key = "project", value = "nexus" }
  alerts_topic_arn = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "spending_and_its_forecast_are_reported" {
  assert {
    condition     = length(aws_budgets_budget.month.notification) == 4
    error_message = "three shares and the forecast"
  }
  assert {
    condition     = anytrue([for one in aws_budgets_budget.month.cost_filter : one.values[0] == "user:project$nexus"])
    error_message = "the tag is written as AWS wants it"
  }
  assert {
    condition     = aws_ce_anomaly_subscription.alerts[0].frequency == "IMMEDIATE"
    error_message = "topics hear at once or not at all"
  }
}

run "a_budget_of_nothing_is_refused" {
  command = plan
  variables {
    usd_per_month   = 0
    warn_at_percent = []
    anomaly_usd     = 0
  }
  expect_failures = [var.usd_per_month, var.warn_at_percent, var.anomaly_usd]
}
