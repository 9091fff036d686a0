# What AWS would answer, where a made-up word would not do: other resources check that it is an ARN or an id.

mock_resource "aws_backup_vault" {
  defaults = {
    arn = "arn:aws:backup:eu-central-1:123456789012:backup-vault:made-up"
  }
}

mock_resource "aws_batch_compute_environment" {
  defaults = {
    arn = "arn:aws:batch:eu-central-1:123456789012:compute-environment/made-up"
  }
}

mock_resource "aws_batch_job_definition" {
  defaults = {
    arn = "arn:aws:batch:eu-central-1:123456789012:job-definition/made-up:1"
  }
}

mock_resource "aws_batch_job_queue" {
  defaults = {
    arn = "arn:aws:batch:eu-central-1:123456789012:job-queue/made-up"
  }
}

mock_resource "aws_ce_anomaly_monitor" {
  defaults = {
    arn = "arn:aws:ce::123456789012:anomalymonitor/made-up"
  }
}

mock_resource "aws_cloudwatch_log_group" {
  defaults = {
    arn = "arn:aws:logs:eu-central-1:123456789012:log-group:made-up"
  }
}

mock_resource "aws_ecr_repository" {
  defaults = {
    arn            = "arn:aws:ecr:eu-central-1:123456789012:repository/made-up"
    repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/made-up"
  }
}

mock_resource "aws_emrserverless_application" {
  defaults = {
    arn = "arn:aws:emr-serverless:eu-central-1:123456789012:/applications/made-up"
  }
}

mock_resource "aws_iam_instance_profile" {
  defaults = {
    arn = "arn:aws:iam::123456789012:instance-profile/made-up"
  }
}

mock_resource "aws_iam_openid_connect_provider" {
  defaults = {
    arn = "arn:aws:iam::123456789012:oidc-provider/made-up"
  }
}

mock_resource "aws_iam_policy" {
  defaults = {
    arn = "arn:aws:iam::123456789012:policy/made-up"
  }
}

mock_resource "aws_iam_role" {
  defaults = {
    arn = "arn:aws:iam::123456789012:role/made-up"
  }
}

mock_resource "aws_instance" {
  defaults = {
    arn = "arn:aws:ec2:eu-central-1:123456789012:instance/i-00000000000000001"
    id  = "i-00000000000000001"
  }
}

mock_resource "aws_kms_key" {
  defaults = {
    arn    = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000001"
    key_id = "00000000-0000-0000-0000-000000000001"
  }
}

mock_resource "aws_launch_template" {
  defaults = {
    id = "lt-00000000000000001"
  }
}

mock_resource "aws_s3_bucket" {
  defaults = {
    arn = "arn:aws:s3:::made-up"
  }
}

mock_resource "aws_sns_topic" {
  defaults = {
    arn = "arn:aws:sns:eu-central-1:123456789012:made-up"
  }
}

mock_resource "aws_sqs_queue" {
  defaults = {
    arn = "arn:aws:sqs:eu-central-1:123456789012:made-up"
  }
}
