mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name    = "nexus-test"
  regions = ["eu-central-1"]
}

run "nobody_below_it_makes_identities_or_acts_elsewhere" {
  assert {
    condition = anytrue([
      for one in jsondecode(aws_iam_policy.boundary.policy).Statement :
      one.Effect == "Deny" && contains(try(one.Action, []), "iam:Create*")
    ])
    error_message = "creating identities is denied"
  }
  assert {
    condition = anytrue([
      for one in jsondecode(aws_iam_policy.boundary.policy).Statement :
      one.Effect == "Deny" && try(one.Condition.StringNotEquals["aws:RequestedRegion"][0], "") == "eu-central-1"
    ])
    error_message = "other regions are denied"
  }
}

run "a_boundary_without_a_region_is_refused" {
  command = plan
  variables {
    regions = []
  }
  expect_failures = [var.regions]
}
