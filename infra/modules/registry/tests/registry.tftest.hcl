mock_provider "aws" {
  source = "../../tests/mocks"
}

variables {
  name             = "nexus-test"
  kms_key_arn      = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
  alerts_topic_arn = "arn:aws:sns:eu-central-1:123456789012:nexus-test-alerts"
}

run "images_never_change_and_are_scanned_and_encrypted" {
  assert {
    condition     = toset(keys(output.repository_urls)) == toset(["serve", "spark", "train"])
    error_message = "the platform has three images"
  }
  assert {
    condition = alltrue([for one in aws_ecr_repository.this : alltrue([
      one.image_tag_mutability == "IMMUTABLE",
      one.image_scanning_configuration[0].scan_on_push,
      one.encryption_configuration[0].kms_key == var.kms_key_arn,
    ])])
    error_message = "each repository is immutable, scanned and encrypted with the platform's key"
  }
}

run "keeping_a_single_image_is_refused" {
  command = plan
  variables {
    keep_images  = 1
    repositories = ["Train"]
  }
  expect_failures = [var.keep_images, var.repositories]
}
