# What AWS would answer, where a made-up word would not do: other resources check that it is an ARN.
mock_resource "aws_lb" {
  defaults = {
    arn        = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/nexus-test/0123456789abcdef"
    arn_suffix = "app/nexus-test/0123456789abcdef"
    dns_name   = "nexus-test-1.eu-central-1.elb.amazonaws.com"
  }
}
mock_resource "aws_lb_target_group" {
  defaults = {
    arn        = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/nexus-test-blue/0123456789abcdef"
    arn_suffix = "targetgroup/nexus-test-blue/0123456789abcdef"
  }
}
mock_resource "aws_lb_listener" {
  defaults = {
    arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/nexus-test/0123456789abcdef/0123456789abcdef"
  }
}
mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::123456789012:role/nexus-test" }
}
mock_resource "aws_iam_instance_profile" {
  defaults = { arn = "arn:aws:iam::123456789012:instance-profile/nexus-test" }
}
mock_resource "aws_launch_template" {
  defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
}
mock_resource "aws_autoscaling_group" {
  defaults = { arn = "arn:aws:autoscaling:eu-central-1:123456789012:autoScalingGroup:0:autoScalingGroupName/nexus-test-gpu" }
}
mock_resource "aws_ecs_cluster" {
  defaults = { arn = "arn:aws:ecs:eu-central-1:123456789012:cluster/nexus-test" }
}
mock_resource "aws_ecs_service" {
  defaults = { id = "arn:aws:ecs:eu-central-1:123456789012:service/nexus-test/nexus-test-api" }
}
mock_resource "aws_ecs_task_definition" {
  defaults = { arn = "arn:aws:ecs:eu-central-1:123456789012:task-definition/nexus-test-api:1" }
}
mock_resource "aws_wafv2_web_acl" {
  defaults = { arn = "arn:aws:wafv2:eu-central-1:123456789012:regional/webacl/nexus-test/0" }
}
mock_resource "aws_cloudwatch_log_group" {
  defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:nexus-test" }
}
mock_resource "aws_appautoscaling_policy" {
  defaults = { arn = "arn:aws:autoscaling:eu-central-1:123456789012:scalingPolicy:0" }
}
mock_resource "aws_rds_cluster" {
  defaults = {
    arn                 = "arn:aws:rds:eu-central-1:123456789012:cluster:nexus-test-keys"
    endpoint            = "nexus-test-keys.cluster-0.eu-central-1.rds.amazonaws.com"
    cluster_resource_id = "cluster-0123456789"
    master_user_secret = [{
      kms_key_id    = "arn:aws:kms:eu-central-1:123456789012:key/1"
      secret_arn    = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rds-0"
      secret_status = "active"
    }]
  }
}
mock_resource "aws_codebuild_project" {
  defaults = { arn = "arn:aws:codebuild:eu-central-1:123456789012:project/nexus-test" }
}
mock_resource "aws_s3_bucket" {
  defaults = { arn = "arn:aws:s3:::nexus-test-delivery-123456789012" }
}
