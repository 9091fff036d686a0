# A ceiling: whatever policy somebody attaches to a role of the platform later, it never does more than this. It grants
# nothing by itself (IAM user guide, "Permissions boundaries").

resource "aws_iam_policy" "boundary" {
  # checkov:skip=CKV_AWS_286:a ceiling grants nothing; the roles' own policies do, and they are scoped
  # checkov:skip=CKV_AWS_287:a ceiling grants nothing
  # checkov:skip=CKV_AWS_288:a ceiling grants nothing
  # checkov:skip=CKV_AWS_289:a ceiling grants nothing
  # checkov:skip=CKV_AWS_290:a ceiling grants nothing
  # checkov:skip=CKV_AWS_355:a ceiling grants nothing
  # checkov:skip=CKV2_AWS_40:a ceiling grants nothing, and IAM is denied below
  name        = "${var.name}-boundary"
  description = "The most that any role of ${var.name} can ever do"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "ServicesThatThePlatformUses"
        Effect = "Allow"
        Action = [
          "application-autoscaling:*", "athena:*", "autoscaling:*", "batch:*", "cloudwatch:*", "codebuild:*",
          "codedeploy:*", "codepipeline:*", "ec2:*", "ecr:*", "ecs:*", "elasticloadbalancing:*", "emr-serverless:*",
          "events:*", "glue:*", "iam:PassRole", "kms:*", "logs:*", "s3:*", "sagemaker:*", "sagemaker-mlflow:*",
          "secretsmanager:*", "sns:Publish", "ssm:*", "ssmmessages:*", "ec2messages:*", "sts:*", "xray:*", "backup:*",
          "tag:GetResources", "rds:*", "lambda:InvokeFunction", "config:*", "servicequotas:Get*", "wafv2:*",
          # A gateway logs in to its database, a pipeline fetches commits.
          "codeconnections:UseConnection", "codestar-connections:UseConnection", "rds-db:connect",
          # What AWS Config reads beside the above; it records no kind that it may not read.
          "cloudtrail:Describe*", "cloudtrail:Get*", "cloudtrail:List*", "iam:Get*", "iam:List*", "sns:Get*", "sns:List*",
        ]
        # "*": a ceiling names kinds of actions; which resources is said by the policies below it.
        Resource = "*"
      },
      {
        Sid    = "NobodyMakesIdentitiesOrOpensTheTrail"
        Effect = "Deny"
        Action = [
          "iam:Add*", "iam:Attach*", "iam:Create*", "iam:Delete*", "iam:Detach*", "iam:Put*", "iam:Remove*", "iam:Set*",
          "iam:Tag*", "iam:Untag*", "iam:Update*", "organizations:*", "account:*", "cloudtrail:Delete*",
          "cloudtrail:Stop*", "cloudtrail:Update*", "kms:ScheduleKeyDeletion", "kms:DisableKey", "kms:PutKeyPolicy",
        ]
        # "*": a denial that named resources would have holes.
        Resource = "*"
      },
      {
        Sid       = "NowhereElse"
        Effect    = "Deny"
        NotAction = ["iam:*", "sts:*", "s3:*", "route53:*", "cloudfront:*", "budgets:*", "ce:*", "support:*"]
        # "*": a denial that named resources would have holes. Exempt are services that answer in one region for all.
        Resource  = "*"
        Condition = { StringNotEquals = { "aws:RequestedRegion" = var.regions } }
      },
    ]
  })
}
